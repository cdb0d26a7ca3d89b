package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/edge"
)

// maxConfigFile bounds the configuration file.
const maxConfigFile = 1 << 20

// settings are what run is told by flags, variables and the file.
type settings struct {
	config         node.Config
	configFile     string
	adminTokenFile string
	terminationLog string
	logLevel       slog.Level
	logFormat      string
}

func newSettings() *settings {
	return &settings{config: node.DefaultConfig(), terminationLog: defaultTerminationLog, logFormat: "text"}
}

// register declares all settings as flags. A flag's name is also its key in
// the file, and in upper case with KOI_ before it its variable.
func (s *settings) register(f *pflag.FlagSet) {
	c := &s.config
	f.SortFlags = false
	f.StringVar(&s.configFile, "config", "", "YAML file with these settings, keyed by flag name")

	f.StringVar(&c.Name, "name", c.Name, "name in the node's RID, when the identity is made")
	f.StringVar(&c.DataDir, "data-dir", c.DataDir, "directory of the store; made if missing")
	f.StringVar(&c.IdentityDir, "identity-dir", c.IdentityDir, "directory of the identity's files (default: identity in --data-dir)")
	f.BoolVar(&c.Unsigned, "unsigned", c.Unsigned, "make an identity without a key pair")
	f.Var(&choice[node.UnsignedPeers]{&c.UnsignedPeers, []node.UnsignedPeers{node.UnsignedAllow, node.UnsignedDeny}}, "unsigned-peers", "whether bodies without a signature are taken")

	f.BoolVar(&c.Partial, "partial", c.Partial, "be a partial node: serve nothing to peers and poll them")
	f.StringVar(&c.Listen, "listen", c.Listen, "host:port of the protocol; port 0 picks one")
	f.StringVar(&c.BaseURL, "base-url", c.BaseURL, "URL below which peers find this node (default: from the bound address)")
	f.BoolVar(&c.Docs, "docs", c.Docs, "serve a page that shows the OpenAPI document, at docs below the base URL")
	f.BoolVar(&c.Coordinator, "coordinator", c.Coordinator, "answer handshakes and subscribe to newcomers' nodes and edges")
	f.Var(ridTypes(&c.Provides.Event), "provides-event", "RID types whose events this node gives out")
	f.Var(ridTypes(&c.Provides.State), "provides-state", "RID types whose state this node gives out")
	f.Var(interests(&c.Interests), "interest", "RID types to subscribe to wherever provided; * for all, empty for none")
	f.StringVar(&c.FirstContact, "first-contact", c.FirstContact, "base URL of the node to shake hands with first")
	f.Var(ridValue{&c.FirstContactRID}, "first-contact-rid", "its RID, where known")
	f.Var(&choice[edge.Policy]{&c.EdgeApproval, []edge.Policy{edge.Automatic, edge.Manual}}, "edge-approval", "what happens to proposals that no standing decision covers")
	f.Var(prefixes(&c.AllowPeerCIDRs), "allow-peer-cidr", "addresses the node may dial (default: no further limit)")

	f.StringVar(&c.AdminListen, "admin-listen", c.AdminListen, "host:port of the admin API; empty leaves it out")
	f.StringVar(&s.adminTokenFile, "admin-token-file", "", "file with the admin API's bearer token; required off loopback")
	f.StringVar(&c.AdminTLSCertFile, "admin-tls-cert", c.AdminTLSCertFile, "PEM certificate of the admin API; required off loopback")
	f.StringVar(&c.AdminTLSKeyFile, "admin-tls-key", c.AdminTLSKeyFile, "PEM key of the admin API")
	f.StringVar(&c.MetricsListen, "metrics-listen", c.MetricsListen, "host:port for /metrics alone (default: on the admin listener)")

	f.DurationVar(&c.PollInterval, "poll-interval", c.PollInterval, "how often a partial node polls")
	f.DurationVar(&c.CheckInterval, "check-interval", c.CheckInterval, "how often the other end of each edge is asked whether it still knows it")
	f.DurationVar(&c.RetryCap, "retry-cap", c.RetryCap, "longest pause between attempts to reach a peer")
	f.DurationVar(&c.RequestTimeout, "request-timeout", c.RequestTimeout, "longest request to a peer")
	f.DurationVar(&c.ShutdownTimeout, "shutdown-timeout", c.ShutdownTimeout, "longest drain after a signal")

	f.IntVar(&c.Workers, "workers", c.Workers, "knowledge objects processed side by side")
	f.IntVar(&c.MaxInbox, "max-inbox", c.MaxInbox, "accepted events that may wait")
	f.Var(size[int64]{&c.MaxStoreSize}, "store-max-size", "size of the store's file; 0: as far as its volume has room")
	f.DurationVar(&c.ScrubInterval, "scrub-interval", c.ScrubInterval, "time in which all bundles are read again to see that they are whole; 0: never")
	f.Var(size[int64]{&c.ScrubRate}, "scrub-rate", "bytes a second read for that, at most")
	f.IntVar(&c.QueueRows, "queue-rows", c.QueueRows, "events that may wait for one peer")
	f.Var(size[int64]{&c.QueueBytes}, "queue-bytes", "bytes that may wait for one peer")
	f.DurationVar(&c.QueueMaxAge, "queue-max-age", c.QueueMaxAge, "end of a poll queue nobody polls")
	f.IntVar(&c.ReplayRows, "replay-rows", c.ReplayRows, "signed bodies remembered, by which repeated ones are known")
	f.DurationVar(&c.ReplayMaxAge, "replay-max-age", c.ReplayMaxAge, "how long they are remembered")
	f.IntVar(&c.PeerConcurrency, "peer-concurrency", c.PeerConcurrency, "requests of peers served side by side")
	f.Var(size[int64]{&c.Limits.BodyBytes}, "max-body-bytes", "size of a body")
	f.IntVar(&c.Limits.Events, "max-events", c.Limits.Events, "events in a body")
	f.IntVar(&c.Limits.Depth, "max-json-depth", c.Limits.Depth, "nesting of JSON")
	f.Var(size[int]{&c.Limits.ContentsBytes}, "max-contents-bytes", "size of one bundle's contents")
	f.IntVar(&c.Limits.RIDs, "max-rids", c.Limits.RIDs, "RIDs in a fetch")
	f.IntVar(&c.Limits.RIDTypes, "max-rid-types", c.Limits.RIDTypes, "RID types in a list")

	f.StringVar(&c.ConfigHash, "config-hash", c.ConfigHash, "shown in the status, for whoever manages the node")
	f.StringVar(&s.terminationLog, "termination-log", s.terminationLog, "file for the reason of a failed start")
	f.TextVar(&s.logLevel, "log-level", s.logLevel, "debug, info, warn or error")
	f.Var(&choice[string]{&s.logFormat, []string{"text", "json"}}, "log-format", "form of the log on stderr")
}

// load fills in from variables and the file what no flag set, reads the token,
// and checks what is not the node's to check. Errors wrap node.ErrBadConfig
// and name the flag, the variable, or the file and line.
func (s *settings) load(f *pflag.FlagSet, env func(string) (string, bool)) error {
	if err := s.fill(f, env); err != nil {
		return fmt.Errorf("%w: %w", node.ErrBadConfig, err)
	}
	if s.adminTokenFile != "" {
		token, err := client.ReadTokenFile(s.adminTokenFile)
		if err != nil {
			return fmt.Errorf("%w: --admin-token-file: %w", node.ErrBadConfig, err)
		}
		s.config.AdminToken, s.config.AdminTokenFile = token, s.adminTokenFile
	}
	return nil
}

func (s *settings) fill(f *pflag.FlagSet, env func(string) (string, bool)) error {
	var errs []error
	f.VisitAll(func(flag *pflag.Flag) {
		name := variable(flag.Name)
		text, ok := env(name)
		if flag.Changed || !ok || flag.Name == "help" {
			return
		}
		if err := f.Set(flag.Name, text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, unwrapFlag(err)))
		}
	})
	if err := errors.Join(errs...); err != nil || s.configFile == "" {
		return err
	}
	return applyFile(f, s.configFile)
}

// unwrapFlag takes pflag's own words off an error where the source is no flag.
func unwrapFlag(err error) error {
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		return value.Unwrap()
	}
	return err
}

func variable(flag string) string {
	return "KOI_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applyFile sets from a YAML file the flags that are not set yet.
func applyFile(f *pflag.FlagSet, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("configuration file: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxConfigFile+1))
	if err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	if len(text) > maxConfigFile {
		return fmt.Errorf("configuration file %s: larger than %d bytes", path, maxConfigFile)
	}
	return applyYAML(f, path, text)
}

func applyYAML(f *pflag.FlagSet, path string, text []byte) error {
	var doc yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(string(text)))
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
		return nil // nothing but comments
	} else if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: more than one YAML document", path)
	}
	top := doc.Content[0]
	if top.Kind == yaml.ScalarNode && top.Tag == "!!null" {
		return nil
	}
	if top.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: a mapping of settings is needed", path, top.Line)
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		flag := f.Lookup(key.Value)
		if flag == nil || slices.Contains([]string{"config", "help"}, key.Value) {
			return fmt.Errorf("%s:%d: unknown key %q; keys are the flags of koi-node run without the dashes", path, key.Line, key.Value)
		}
		if line, twice := seen[key.Value]; twice {
			return fmt.Errorf("%s:%d: %s is given twice, first in line %d", path, key.Line, key.Value, line)
		}
		seen[key.Value] = key.Line
		if err := applyKey(f, flag, value); err != nil {
			return fmt.Errorf("%s:%d: %s: %w", path, value.Line, key.Value, err)
		}
	}
	return nil
}

func applyKey(f *pflag.FlagSet, flag *pflag.Flag, value *yaml.Node) error {
	values, many := flag.Value.(pflag.SliceValue)
	switch {
	case value.Kind == yaml.ScalarNode && value.Tag == "!!null":
		return errors.New("it has no value")
	case value.Kind == yaml.ScalarNode:
		if flag.Changed {
			return nil
		}
		return unwrapFlag(f.Set(flag.Name, value.Value))
	case value.Kind != yaml.SequenceNode || !many:
		return errors.New("one value is needed")
	}
	texts := make([]string, 0, len(value.Content))
	for _, item := range value.Content {
		if item.Kind != yaml.ScalarNode {
			return fmt.Errorf("line %d: items are plain values", item.Line)
		}
		texts = append(texts, item.Value)
	}
	if flag.Changed {
		return nil
	}
	flag.Changed = true
	return values.Replace(texts)
}

// logger makes the program's log.
func (s *settings) logger(to io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: s.logLevel}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(to, options))
	}
	return slog.New(slog.NewTextHandler(to, options))
}
