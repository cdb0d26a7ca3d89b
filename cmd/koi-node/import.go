package main

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/koi-net/koi-operator/node"
	"github.com/koi-net/koi-operator/node/admin/client"
	"github.com/koi-net/koi-operator/node/store"
	"github.com/koi-net/koi-operator/node/transfer"
)

// maxPasswordFile bounds the file with the password of a key.
const maxPasswordFile = 64 << 10

// importFlags are the settings of import.
type importFlags struct {
	places       transfer.Places
	options      transfer.Options
	passwordFile string
	output       outputFormat
}

func (a *app) importCommand() *cobra.Command {
	o := importFlags{}
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Take over a node of the Python library, as the same node",
		Long: `Take over the node that the Python library koi-net keeps in DIR: its identity
with the key, its bundles, the events that wait for others, and its settings.
The node keeps its RID, and DIR stays as it is. Stop the Python node first, and
do not start it again: two nodes of one RID would contradict each other.

An encrypted key stays encrypted. Its password is read from --password-file, or
else from the variable PRIV_KEY_PASSWORD or the one the node's configuration
names, or else from DIR/.env.

Files that cannot be taken over are listed with the reason, and the rest is
taken; with --strict nothing is. Nothing that is there is replaced.

Exit codes: 3 no such node, 12 the key is missing, not the node's or has another
password, 13 the node's configuration cannot be used, 1 any other failure.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return endTransfer(a.importNode(cmd, args[0], o))
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.options.Target.DataDir, "data-dir", node.DefaultConfig().DataDir, "directory of the store; made if missing")
	f.StringVar(&o.options.Target.IdentityDir, "identity-dir", "", "directory of the identity's files (default: identity in --data-dir)")
	f.StringVar(&o.passwordFile, "password-file", "", "file with the password of the key")
	f.StringVar(&o.places.Config, "from-config", "", "its configuration file, where that is not found in DIR")
	f.StringVar(&o.places.Cache, "from-cache", "", "its cache's directory, where the configuration does not tell")
	f.StringVar(&o.places.Key, "from-key", "", "its private key's file, where the configuration does not tell")
	f.Var(ridTypes(&o.options.Own), "own-type", "RID types whose bundles are this node's own knowledge, which nobody else may change")
	f.Var(ridTypes(&o.options.Foreign), "foreign-type", "RID types whose bundles are not, though it gives them out")
	o.options.Limits = node.DefaultConfig().Limits
	f.Var(size[int]{&o.options.Limits.ContentsBytes}, "max-contents-bytes", "size of one bundle's contents")
	f.BoolVar(&o.options.DryRun, "dry-run", false, "check everything and say what would be done")
	f.BoolVar(&o.options.Strict, "strict", false, "take everything over or nothing")
	registerOutput(f, &o.output)
	return cmd
}

func (a *app) importNode(cmd *cobra.Command, dir string, o importFlags) error {
	plan, err := transfer.Find(dir, o.places)
	if err != nil {
		return err
	}
	if err := usable(plan, o.options.Target); err != nil {
		return err
	}
	from := ""
	if o.options.Password, from, err = a.password(plan, o.passwordFile); err != nil {
		return err
	}
	report, err := transfer.Import(cmd.Context(), plan, o.options)
	switch {
	case errors.Is(err, transfer.ErrPassword):
		return fmt.Errorf("%w; give its password by --password-file, the variable %s or %s/.env", err, plan.PasswordVariable, plan.Dir)
	case errors.Is(err, transfer.ErrIncomplete):
		err = fmt.Errorf("%w; leave --strict out to take over the rest", err)
	case err != nil && from != "":
		return fmt.Errorf("%w (the password is that of %s)", err, from)
	case err != nil:
		return err
	}
	p := printer{cmd.OutOrStdout(), o.output}
	return errors.Join(err, p.print(report, func() error { return printImport(p, report, err != nil) }))
}

// usable holds the settings taken over against what koi-node run takes.
func usable(plan transfer.Plan, t transfer.Target) error {
	text, err := plan.SettingsYAML(t)
	if err != nil {
		return err
	}
	s := newSettings()
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	s.register(f)
	if err = applyYAML(f, plan.Config, text); err == nil {
		err = s.config.Validate()
	}
	if err != nil {
		return fmt.Errorf("%w: its settings are none koi-node run could use: %w", transfer.ErrSource, err)
	}
	return nil
}

// password looks for the key's password where the library does, unless a file
// has it. from says where it was found.
func (a *app) password(plan transfer.Plan, file string) (password []byte, from string, err error) {
	if !plan.Signed() {
		return nil, "", nil
	}
	if file != "" {
		text, err := readBounded(file, a.stdin, maxPasswordFile)
		if err != nil {
			return nil, "", fmt.Errorf("--password-file: %w", err)
		}
		return bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")), source(file), nil
	}
	if text, ok := a.env(plan.PasswordVariable); ok && text != "" {
		return []byte(text), "the variable " + plan.PasswordVariable, nil
	}
	password, path, err := plan.PasswordFrom()
	if password == nil {
		path = ""
	}
	return password, path, err
}

// endTransfer gives an error of a command that reads or writes stores its exit code.
func endTransfer(err error) error {
	if err == nil || errors.As(err, new(*exitError)) {
		return err
	}
	code := endingOf(err).code
	switch {
	case errors.Is(err, transfer.ErrNoNode), errors.Is(err, store.ErrNotFound), errors.Is(err, client.ErrNotFound):
		code = exitNotFound
	case errors.Is(err, transfer.ErrPassword):
		code = exitIdentityMismatch
	case errors.Is(err, transfer.ErrSource):
		code = exitBadConfig
	case errors.Is(err, client.ErrStoreDamaged):
		code = exitStoreDamaged
	}
	return &exitError{code, err}
}

func printImport(p printer, r transfer.Report, failed bool) error {
	rows := [][]string{
		{"Node", string(r.RID)},
		{"Found", fmt.Sprintf("%s, %s", r.Config, r.Layout)},
		{"Generation", r.Generation},
		{"Type", string(r.Profile.NodeType)},
	}
	if r.Key != "" {
		rows = append(rows, []string{"Key", r.Key})
	}
	rows = append(rows, []string{"Cache", r.Cache}, []string{"Bundles", fmt.Sprint(r.Bundles)})
	if r.Waiting > 0 {
		rows = append(rows, []string{"Waiting", fmt.Sprintf("%d events for other nodes", r.Waiting)})
	}
	rows = append(rows, []string{"Data", r.DataDir}, []string{"Identity", r.IdentityDir}, []string{"Settings", r.SettingsFile})
	if err := p.table(nil, rows); err != nil {
		return err
	}
	if err := printTypes(p, r.Types, true); err != nil {
		return err
	}
	if err := printSkipped(p, "NOT TAKEN OVER", r.Skipped, r.SkippedTotal); err != nil {
		return err
	}
	lines := []string{""}
	for _, note := range r.Notes {
		lines = append(lines, "Note: "+note+".")
	}
	switch {
	case failed:
		lines = append(lines, "Nothing was taken over.")
	case r.DryRun:
		lines = append(lines, "Nothing was written: this was a dry run.")
	default:
		lines = append(lines, "Run the node: koi-node run --config "+shellWord(r.SettingsFile))
	}
	for _, line := range lines {
		if err := p.linef("%s", line); err != nil {
			return err
		}
	}
	return nil
}

// printTypes writes how many bundles of each type there are and, for those of an
// import, whose they are.
func printTypes(p printer, types []transfer.TypeCount, whose bool) error {
	if len(types) == 0 {
		return nil
	}
	header := []string{"RID TYPE", "BUNDLES"}
	if whose {
		header = append(header, "OWN", "PROVIDED", "OPEN")
	}
	rows := make([][]string, 0, len(types))
	for _, t := range types {
		row := []string{string(t.Type), fmt.Sprint(t.Bundles)}
		if whose {
			row = append(row, fmt.Sprint(t.Own), fmt.Sprint(t.Provided), fmt.Sprint(t.Bundles-t.Own-t.Provided))
		}
		rows = append(rows, row)
	}
	if err := p.linef(""); err != nil {
		return err
	}
	return p.table(header, rows)
}

func printSkipped(p printer, title string, list []transfer.Skipped, total int) error {
	if total == 0 {
		return nil
	}
	rows := make([][]string, 0, len(list)+1)
	for _, s := range list {
		what := filepath.Base(s.File)
		if s.RID != "" {
			what = string(s.RID)
		}
		rows = append(rows, []string{what, s.Reason})
	}
	if more := total - len(list); more > 0 {
		rows = append(rows, []string{fmt.Sprintf("and %d more", more), ""})
	}
	if err := p.linef(""); err != nil {
		return err
	}
	return p.table([]string{fmt.Sprintf("%s (%d)", title, total), "WHY"}, rows)
}

// shellWord quotes a path for pasting, where it needs it.
func shellWord(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(plainInShell, r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

const plainInShell = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@%=:,"
