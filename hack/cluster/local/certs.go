package local

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// validity is how long certificates hold. A cluster is disposable; ten years is never.
const validity = 10 * 365 * 24 * time.Hour

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// pair is a certificate with its key, both PEM.
type pair struct{ cert, key []byte }

// leaf describes a certificate to be signed.
type leaf struct {
	name   string
	groups []string
	server bool
	hosts  []string // DNS names and IP addresses; server certificates only
}

// newAuthority makes a self-signed authority.
func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of %s: %w", name, err)
	}
	template, err := newTemplate(pkix.Name{CommonName: name})
	if err != nil {
		return nil, err
	}
	template.IsCA, template.BasicConstraintsValid = true, true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back %s: %w", name, err)
	}
	return &authority{cert, key, pemBlock("CERTIFICATE", der)}, nil
}

// sign makes a key and a certificate for it.
func (a *authority) sign(l leaf) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("make the key of %s: %w", l.name, err)
	}
	template, err := newTemplate(pkix.Name{CommonName: l.name, Organization: l.groups})
	if err != nil {
		return pair{}, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if l.server {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	for _, h := range l.hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return pair{}, fmt.Errorf("sign the certificate of %s: %w", l.name, err)
	}
	keyPEM, err := privatePEM(key)
	if err != nil {
		return pair{}, err
	}
	return pair{pemBlock("CERTIFICATE", der), keyPEM}, nil
}

func newTemplate(subject pkix.Name) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	// An hour back: clocks that are set while the cluster starts.
	from := time.Now().Add(-time.Hour)
	return &x509.Certificate{SerialNumber: serial, Subject: subject, NotBefore: from, NotAfter: from.Add(validity)}, nil
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func privatePEM(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a private key: %w", err)
	}
	return pemBlock("PRIVATE KEY", der), nil
}

// users are the identities that get a kubeconfig of their own.
var users = map[string]leaf{
	"admin":              {name: "kubernetes-admin", groups: []string{"system:masters"}},
	"controller-manager": {name: "system:kube-controller-manager"},
	"scheduler":          {name: "system:kube-scheduler"},
	"proxy":              {name: "system:kube-proxy"},
	"kubelet":            {name: "system:node:" + nodeName, groups: []string{"system:nodes"}},
	"coredns":            {name: "system:coredns"},
	"netpol":             {name: "system:netpol"},
	"provisioner":        {name: "system:local-path-provisioner"},
}

// writeCredentials makes the certificates, keys and kubeconfigs of a cluster under
// pki/ and kubeconfig/ of a directory.
func writeCredentials(dir string, node netip.Addr) error {
	ca, err := newAuthority("kubernetes-ca")
	if err != nil {
		return err
	}
	front, err := newAuthority("front-proxy-ca")
	if err != nil {
		return err
	}
	files := map[string][]byte{"pki/ca.crt": ca.pem, "pki/front-proxy-ca.crt": front.pem}
	if files["pki/ca.key"], err = privatePEM(ca.key); err != nil {
		return err
	}
	pairs := []struct {
		file   string
		signer *authority
		leaf   leaf
	}{
		{"apiserver", ca, leaf{name: "kube-apiserver", server: true, hosts: []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain,
			"localhost", "127.0.0.1", apiService, node.String(),
		}}},
		{"kubelet-server", ca, leaf{name: "system:node:" + nodeName, groups: []string{"system:nodes"}, server: true,
			hosts: []string{nodeName, node.String(), "127.0.0.1"}}},
		{"apiserver-kubelet-client", ca, leaf{name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}}},
		{"front-proxy-client", front, leaf{name: "front-proxy-client"}},
	}
	for _, p := range pairs {
		made, err := p.signer.sign(p.leaf)
		if err != nil {
			return err
		}
		files["pki/"+p.file+".crt"], files["pki/"+p.file+".key"] = made.cert, made.key
	}
	for user, l := range users {
		made, err := ca.sign(l)
		if err != nil {
			return err
		}
		files["kubeconfig/"+user+".conf"] = kubeconfig(ca.pem, made)
	}
	// Service account tokens are signed with a key of their own.
	tokens, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the service account key: %w", err)
	}
	if files["pki/sa.key"], err = privatePEM(tokens); err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(tokens.Public())
	if err != nil {
		return fmt.Errorf("encode the service account key: %w", err)
	}
	files["pki/sa.pub"] = pemBlock("PUBLIC KEY", public)
	return writeFiles(dir, files)
}

// kubeconfig writes the client configuration of one identity.
func kubeconfig(ca []byte, client pair) []byte {
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: %[1]s, cluster: {server: "https://127.0.0.1:%[2]s", certificate-authority-data: %[3]s}}]
users: [{name: %[1]s, user: {client-certificate-data: %[4]s, client-key-data: %[5]s}}]
contexts: [{name: %[1]s, context: {cluster: %[1]s, user: %[1]s}}]
current-context: %[1]s
`, nodeName, apiPort, b64(ca), b64(client.cert), b64(client.key))
}

// writeFiles writes files below a directory, readable by root alone.
func writeFiles(dir string, files map[string][]byte) error {
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return nil
}
