package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// version is set by -ldflags "-X main.version=...".
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one kills, whatever drains.
	context.AfterFunc(ctx, stop)
	a := &app{
		stdin:   os.Stdin,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		env:     os.LookupEnv,
		newNode: newNode,
		version: version,
	}
	os.Exit(a.main(ctx, os.Args[1:]))
}

// app is the program with its surroundings, which tests replace.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            func(string) (string, bool)
	newNode        nodeMaker
	version        string
	admin          adminFlags
}

// main runs the command line and returns the exit code. An error takes one
// line on stderr.
func (a *app) main(ctx context.Context, args []string) int {
	root := a.root()
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetArgs(commandFirst(root, args))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	fmt.Fprintf(a.stderr, "koi-node: %s\n", oneLine(a.explain(err)))
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitCode(err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "koi-node",
		Short:         "A KOI-net node, and the tool to talk to a running one",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(a.runCommand(), a.versionCommand(), a.importCommand(), a.exportCommand(),
		a.backupCommand(), a.restoreCommand(), a.verifyCommand(), a.compactCommand())
	for _, cmd := range a.clientCommands() {
		a.admin.register(cmd.PersistentFlags(), a.env)
		root.AddCommand(cmd)
	}
	return root
}

// commandFirst moves the subcommand to the front, so that its flags may stand
// before it as well as after it.
func commandFirst(root *cobra.Command, args []string) []string {
	takesValue := map[string]bool{}
	note := func(f *pflag.Flag) {
		takesValue["--"+f.Name] = f.NoOptDefVal == ""
		if f.Shorthand != "" {
			takesValue["-"+f.Shorthand] = f.NoOptDefVal == ""
		}
	}
	visitCommands(root, func(cmd *cobra.Command) {
		cmd.Flags().VisitAll(note)
		cmd.PersistentFlags().VisitAll(note)
	})
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "--":
			return args
		case !strings.HasPrefix(arg, "-") || arg == "-":
			moved := append([]string{arg}, args[:i]...)
			return append(moved, args[i+1:]...)
		case takesValue[arg]:
			i++
		}
	}
	return args
}

func visitCommands(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, child := range cmd.Commands() {
		visitCommands(child, visit)
	}
}
