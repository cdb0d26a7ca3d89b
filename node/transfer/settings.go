package transfer

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/koi-net/koi-operator/node/protocol"
	"github.com/koi-net/koi-operator/node/rid"
)

// Names of what a taken-over node consists of, in its data directory.
const (
	// StoreFile is the store, by the name under which a node looks for it.
	StoreFile = "koi.db"
	// IdentityDir is the identity's directory where none is named.
	IdentityDir = "identity"
	// SettingsFile holds the settings taken over, for koi-node run --config.
	SettingsFile = "koi-node.yaml"
)

// Target is where a node is taken over to.
type Target struct {
	// DataDir takes the store and the settings; made if missing.
	DataDir string `json:"dataDir"`
	// IdentityDir takes the identity; "" is IdentityDir in DataDir.
	IdentityDir string `json:"identityDir"`
}

func (t Target) withDefaults() Target {
	if t.IdentityDir == "" {
		t.IdentityDir = filepath.Join(t.DataDir, IdentityDir)
	}
	t.DataDir, t.IdentityDir = filepath.Clean(t.DataDir), filepath.Clean(t.IdentityDir)
	return t
}

// Setting is a setting of koi-node run: a flag by its name, and its values.
type Setting struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
	// List: it takes any number of values; other settings have one.
	List bool `json:"list,omitempty"`
}

// Settings returns the settings that make koi-node run be this node, in the order
// of its flags. The node's name is not among them: the identity has it, and
// without a name no new identity can be made should that one be lost.
func (p Plan) Settings(t Target) ([]Setting, error) {
	t = t.withDefaults()
	data, err := filepath.Abs(t.DataDir)
	if err != nil {
		return nil, err
	}
	id, err := filepath.Abs(t.IdentityDir)
	if err != nil {
		return nil, err
	}
	var s []Setting
	add := func(when bool, name string, values ...string) {
		if when {
			s = append(s, Setting{Name: name, Values: values})
		}
	}
	list := func(when bool, name string, types []rid.Type) {
		if when {
			s = append(s, Setting{Name: name, Values: texts(types), List: true})
		}
	}
	full := p.Profile.NodeType == protocol.Full
	add(true, "data-dir", data)
	add(id != filepath.Join(data, IdentityDir), "identity-dir", id)
	add(!p.Signed(), "unsigned", "true")
	add(!full, "partial", "true")
	add(full && p.Listen != "", "listen", p.Listen)
	add(full, "base-url", p.Profile.BaseURL)
	add(p.Coordinator, "coordinator", "true")
	list(len(p.Profile.Provides.Event) > 0, "provides-event", p.Profile.Provides.Event)
	list(len(p.Profile.Provides.State) > 0, "provides-state", p.Profile.Provides.State)
	list(true, "interest", p.Interests)
	add(p.FirstContact != "", "first-contact", p.FirstContact)
	add(p.FirstContactRID != "", "first-contact-rid", string(p.FirstContactRID))
	add(!full && p.PollInterval > 0, "poll-interval", duration(p.PollInterval))
	return s, nil
}

func texts(types []rid.Type) []string {
	out := make([]string, len(types))
	for i, t := range types {
		out[i] = string(t)
	}
	return out
}

// duration writes a duration the way people do: 5s, not 5s0ms.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// SettingsYAML returns the settings as a file for koi-node run --config.
func (p Plan) SettingsYAML(t Target) ([]byte, error) {
	settings, err := p.Settings(t)
	if err != nil {
		return nil, err
	}
	top := &yaml.Node{
		Kind: yaml.MappingNode,
		HeadComment: fmt.Sprintf("The settings of %s, taken over from %s.\nRun the node: koi-node run --config <this file>",
			p.RID, printable(p.Layout.String())),
	}
	for _, s := range settings {
		value := &yaml.Node{Kind: yaml.SequenceNode}
		for _, v := range s.Values {
			value.Content = append(value.Content, scalar(v))
		}
		switch {
		case !s.List:
			value = value.Content[0]
		case len(s.Values) == 0:
			value.Style = yaml.FlowStyle // []
		}
		top.Content = append(top.Content, scalar(s.Name), value)
	}
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(top); err != nil {
		return nil, fmt.Errorf("write the settings: %w", err)
	}
	return out.Bytes(), enc.Close()
}

func scalar(s string) *yaml.Node {
	var n yaml.Node
	n.SetString(s)
	if s == "true" {
		n.Tag, n.Style = "!!bool", 0
	}
	return &n
}

// String returns the layout's name.
func (l Layout) String() string { return string(l) }

// printable keeps a comment on its line.
func printable(s string) string { return strings.Join(strings.Fields(s), " ") }
