package local

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"time"
)

// maxAnswer bounds what is read of an answer of the API server.
const maxAnswer = 1 << 20

// api asks the API server the few questions that starting a cluster needs.
type api struct{ client *http.Client }

// newAPI returns a client with the administrator's credentials.
func (c *Cluster) newAPI() (*api, error) {
	text, err := os.ReadFile(c.Kubeconfig())
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	// The file is ours, of one shape.
	field := func(name string) []byte {
		m := regexp.MustCompile(name + `: ([A-Za-z0-9+/=]+)`).FindSubmatch(text)
		if m == nil {
			return nil
		}
		b, err := base64.StdEncoding.DecodeString(string(m[1]))
		if err != nil {
			return nil
		}
		return b
	}
	cert, err := tls.X509KeyPair(field("client-certificate-data"), field("client-key-data"))
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", c.Kubeconfig(), err)
	}
	block, _ := pem.Decode(field("certificate-authority-data"))
	if block == nil {
		return nil, fmt.Errorf("kubeconfig %s names no authority", c.Kubeconfig())
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", c.Kubeconfig(), err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &api{&http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13},
		},
	}}, nil
}

// close ends the client's idle connections.
func (a *api) close() { a.client.CloseIdleConnections() }

// get fetches a path; anything but 200 is an error.
func (a *api) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:"+apiPort+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return body, nil
}

// ready asks whether the API server serves.
func (a *api) ready(ctx context.Context) error {
	_, err := a.get(ctx, "/readyz")
	return err
}

// nodeReady asks whether the node takes pods.
func (a *api) nodeReady(ctx context.Context) error {
	body, err := a.get(ctx, "/api/v1/nodes/"+nodeName)
	if err != nil {
		return err
	}
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := json.Unmarshal(body, &node); err != nil {
		return fmt.Errorf("node %s: %w", nodeName, err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" && c.Status == "True" {
			return nil
		} else if c.Type == "Ready" {
			return fmt.Errorf("node %s is not ready: %s", nodeName, c.Message)
		}
	}
	return fmt.Errorf("node %s has not reported yet", nodeName)
}

// podsPossible asks whether the controllers have made what every pod needs.
func (a *api) podsPossible(ctx context.Context) error {
	if _, err := a.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default"); err != nil {
		return err
	}
	_, err := a.get(ctx, "/api/v1/namespaces/default/configmaps/kube-root-ca.crt")
	return err
}

// resolves asks the cluster's DNS for the API server's Service.
func resolves(ctx context.Context) error {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(dnsHost, "53"))
	}}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	found, err := r.LookupHost(ctx, "kubernetes.default.svc."+domain+".")
	if err != nil {
		return err
	}
	if len(found) != 1 || found[0] != apiService {
		return errors.New("the cluster's DNS does not know the API server yet")
	}
	return nil
}
