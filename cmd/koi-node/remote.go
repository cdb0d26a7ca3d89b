package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/koi-net/koi-operator/node/admin/client"
)

// defaultAdmin is where run listens by default.
const defaultAdmin = "http://127.0.0.1:8081"

// maxCAFile bounds the file with the pinned certificate.
const maxCAFile = 1 << 20

// adminFlags say which node's admin API a client command calls.
type adminFlags struct {
	url       string
	tokenFile string
	caFile    string
	timeout   time.Duration
	output    outputFormat
}

func (o *adminFlags) register(f *pflag.FlagSet, env func(string) (string, bool)) {
	or := func(name, def string) string {
		if v, ok := env(name); ok && v != "" {
			return v
		}
		return def
	}
	f.StringVar(&o.url, "admin", or("KOI_ADMIN", defaultAdmin), "URL of the node's admin listener (KOI_ADMIN)")
	f.StringVar(&o.tokenFile, "admin-token-file", or("KOI_ADMIN_TOKEN_FILE", ""), "file with its bearer token (KOI_ADMIN_TOKEN_FILE)")
	f.StringVar(&o.caFile, "admin-ca-file", or("KOI_ADMIN_CA_FILE", ""), "PEM file with the certificate to trust (KOI_ADMIN_CA_FILE)")
	f.DurationVar(&o.timeout, "timeout", client.DefaultTimeout, "longest call; streams have no limit")
	registerOutput(f, &o.output)
}

func (o *adminFlags) client() (*client.Client, error) {
	options := client.Options{URL: o.url, TokenFile: o.tokenFile, Timeout: o.timeout}
	if o.caFile != "" {
		pem, err := readBounded(o.caFile, nil, maxCAFile)
		if err != nil {
			return nil, fmt.Errorf("--admin-ca-file: %w", err)
		}
		options.CACert = pem
	}
	return client.New(options)
}

// readBounded reads a file, or stdin for "-", and refuses more than limit bytes.
func readBounded(path string, stdin io.Reader, limit int64) ([]byte, error) {
	from := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	data, err := io.ReadAll(io.LimitReader(from, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	return data, nil
}

// remote is a client command's work.
type remote func(cmd *cobra.Command, c *client.Client, p printer, args []string) error

// do makes a RunE of a client command's work.
func (a *app) do(work remote) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := a.admin.client()
		if err != nil {
			return err
		}
		defer c.CloseIdleConnections()
		return work(cmd, c, printer{cmd.OutOrStdout(), a.admin.output}, args)
	}
}

func (a *app) clientCommands() []*cobra.Command {
	return []*cobra.Command{
		a.ridsCommand(), a.getCommand(), a.putCommand(), a.forgetCommand(),
		a.nodesCommand(), a.edgesCommand(), a.proposeCommand(),
		a.verdictCommand("approve", client.Approve), a.verdictCommand("reject", client.Reject),
		a.statusCommand(), a.watchCommand(), a.resyncCommand(),
	}
}
