package resources

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/koi-net/koi-operator/api/v1alpha1"
)

// Ports and paths in a node's pod.
const (
	ProtocolPort = 8000
	AdminPort    = 8081
	MetricsPort  = 8082

	ConfigDir   = "/etc/koi"
	ConfigFile  = "config.yaml"
	AdminDir    = "/etc/koi-admin"
	IdentityDir = "/etc/koi-identity"
	DataDir     = "/var/lib/koi"
)

// Contact is a resolved first contact; the zero value means none.
type Contact struct {
	URL string
	RID string
}

// config is the file given to koi-node run: its keys are the names of the
// long flags.
type config struct {
	Name            string   `json:"name"`
	Partial         bool     `json:"partial,omitempty"`
	Coordinator     bool     `json:"coordinator,omitempty"`
	Listen          string   `json:"listen,omitempty"`
	BaseURL         string   `json:"base-url,omitempty"`
	AdminListen     string   `json:"admin-listen"`
	MetricsListen   string   `json:"metrics-listen"`
	DataDir         string   `json:"data-dir"`
	IdentityDir     string   `json:"identity-dir"`
	ProvidesEvent   []string `json:"provides-event,omitempty"`
	ProvidesState   []string `json:"provides-state,omitempty"`
	Interest        []string `json:"interest"`
	FirstContact    string   `json:"first-contact,omitempty"`
	FirstContactRID string   `json:"first-contact-rid,omitempty"`
	Unsigned        bool     `json:"unsigned,omitempty"`
	UnsignedPeers   string   `json:"unsigned-peers"`
	EdgeApproval    string   `json:"edge-approval"`
	AllowPeerCIDR   []string `json:"allow-peer-cidr,omitempty"`
	TerminationLog  string   `json:"termination-log"`
	LogFormat       string   `json:"log-format"`
}

// Config renders the node's configuration file. Every setting that decides
// what the node does stands in it, so that another default in another node
// version changes nothing.
func Config(n *v1alpha1.KoiNode, contact Contact) (string, error) {
	c := config{
		Name:            n.RIDName(),
		Partial:         n.IsPartial(),
		Coordinator:     n.Spec.Coordinator,
		BaseURL:         n.EffectiveBaseURL(),
		AdminListen:     fmt.Sprintf("0.0.0.0:%d", AdminPort),
		MetricsListen:   fmt.Sprintf("0.0.0.0:%d", MetricsPort),
		DataDir:         DataDir,
		IdentityDir:     IdentityDir,
		Interest:        []string{"orn:koi-net.node"},
		FirstContact:    contact.URL,
		FirstContactRID: contact.RID,
		Unsigned:        n.IsUnsigned(),
		UnsignedPeers:   string(v1alpha1.UnsignedPeersAllow),
		EdgeApproval:    string(v1alpha1.ApprovalAutomatic),
		TerminationLog:  corev1.TerminationMessagePathDefault,
		LogFormat:       "json",
	}
	if !n.IsPartial() {
		c.Listen = fmt.Sprintf("0.0.0.0:%d", ProtocolPort)
	}
	if p := n.Spec.Provides; p != nil {
		c.ProvidesEvent, c.ProvidesState = texts(p.Event), texts(p.State)
	}
	if n.Spec.Interests != nil {
		c.Interest = texts(n.Spec.Interests)
	}
	if s := n.Spec.Security; s != nil {
		c.AllowPeerCIDR = s.AllowedPeerCIDRs
		if s.UnsignedPeers != "" {
			c.UnsignedPeers = string(s.UnsignedPeers)
		}
	}
	if !n.ApprovesEdges() {
		c.EdgeApproval = string(v1alpha1.ApprovalManual)
	}
	text, err := yaml.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("render the configuration of %s: %w", n.Name, err)
	}
	return string(text), nil
}

// ConfigHash names what a node reads once, at its start: its configuration, and
// not the admin token and certificate, which it takes up as they change. Another
// hash rolls the pod, and a node that reports this one runs this configuration.
func ConfigHash(config string) string {
	sum := sha256.Sum256([]byte(config))
	return hex.EncodeToString(sum[:])[:16]
}

// ConfigMap holds the configuration file.
func ConfigMap(n *v1alpha1.KoiNode, config string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: owned(n, n.ConfigMapName()),
		Data:       map[string]string{ConfigFile: config},
	}
}

func texts[T ~string](in []T) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return out
}
