package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
)

// chain is a firewall chain of one address family and table.
type chain struct {
	Tool  string `json:"tool"` // iptables or ip6tables
	Table string `json:"table"`
	Name  string `json:"name"`
}

// chainPrefixes are the beginnings of the names of chains that the cluster makes:
// kube-proxy and kubelet, the network policy agent, and the CNI plugins.
var chainPrefixes = []string{"KUBE-", "KOI-NP", "CNI-"}

// families are the tools of both address families.
var families = []string{"iptables", "ip6tables"}

// clusterChains returns the chains on the machine that a cluster could have made.
func clusterChains(ctx context.Context) ([]chain, error) {
	var out []chain
	for _, tool := range families {
		save, err := saveRules(ctx, tool)
		if err != nil {
			return nil, err
		}
		for table, names := range tablesOf(save) {
			for _, name := range names {
				if slices.ContainsFunc(chainPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
					out = append(out, chain{tool, table, name})
				}
			}
		}
	}
	return out, nil
}

// saveRules returns the rules of one family, nothing where the family has no tool or
// no support in the kernel.
func saveRules(ctx context.Context, tool string) (string, error) {
	path, err := lookPath(tool + "-save")
	if err != nil {
		return "", nil
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if tool == "ip6tables" {
			return "", nil
		}
		return "", fmt.Errorf("%s-save: %w: %s", tool, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// tablesOf returns the names of the chains of each table in the form of iptables-save.
func tablesOf(save string) map[string][]string {
	out := map[string][]string{}
	table := ""
	for line := range strings.Lines(save) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
		} else if def, ok := strings.CutPrefix(line, ":"); ok {
			name, _, _ := strings.Cut(def, " ")
			out[table] = append(out[table], name)
		}
	}
	return out
}

// removeChains deletes chains and every rule that leads to them, each table at once,
// and leaves all other rules and their counters alone.
func removeChains(ctx context.Context, chains []chain) error {
	var errs []error
	for _, tool := range families {
		byTable := map[string][]string{}
		for _, c := range chains {
			if c.Tool == tool {
				byTable[c.Table] = append(byTable[c.Table], c.Name)
			}
		}
		if len(byTable) == 0 {
			continue
		}
		save, err := saveRules(ctx, tool)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		path, err := lookPath(tool + "-restore")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		cmd := exec.CommandContext(ctx, path, "-w", "5", "--noflush")
		cmd.Stdin = strings.NewReader(removalScript(save, byTable))
		if out, err := cmd.CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("%s-restore: %w: %s", tool, err, strings.TrimSpace(string(out))))
		}
	}
	return errors.Join(errs...)
}

// removalScript writes the input of iptables-restore --noflush that deletes the chains
// named for each table, given what iptables-save printed.
func removalScript(save string, chains map[string][]string) string {
	var out strings.Builder
	table := ""
	var doomed []string
	for line := range strings.Lines(save) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "*"); ok {
			table = name
			doomed = slices.Sorted(slices.Values(chains[table]))
			if len(doomed) > 0 {
				fmt.Fprintf(&out, "*%s\n", table)
				for _, name := range doomed {
					fmt.Fprintf(&out, ":%s - [0:0]\n", name) // empties it
				}
			}
			continue
		}
		if len(doomed) == 0 {
			continue
		}
		if rule, ok := strings.CutPrefix(line, "-A "); ok {
			from, _, _ := strings.Cut(rule, " ")
			if !slices.Contains(doomed, from) && slices.Contains(doomed, target(rule)) {
				fmt.Fprintf(&out, "-D %s\n", rule)
			}
		} else if line == "COMMIT" {
			for _, name := range doomed {
				fmt.Fprintf(&out, "-X %s\n", name)
			}
			out.WriteString("COMMIT\n")
		}
	}
	return out.String()
}

// target returns the chain that a rule jumps or goes to. Text in quotes, a comment,
// is passed over.
func target(rule string) string {
	quoted := false
	words := strings.FieldsFunc(rule, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted
	})
	for i, w := range words {
		if (w == "-j" || w == "-g") && i+1 < len(words) {
			return words[i+1]
		}
	}
	return ""
}

// counters are the named packet counters that kube-proxy's rules count into. They are
// objects of the kernel, which outlive the rules.
var counters = []string{"ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"}

// removeCounters deletes kube-proxy's packet counters. No common tool does, so this
// speaks to the kernel itself: one NFNL_MSG_ACCT_DEL for each.
func removeCounters() error {
	const (
		netfilter = 12       // NETLINK_NETFILTER
		acctDel   = 7<<8 | 3 // NFNL_SUBSYS_ACCT, NFNL_MSG_ACCT_DEL
		nameAttr  = 1        // NFACCT_NAME
	)
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC, netfilter)
	if errors.Is(err, syscall.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove packet counters: %w", err)
	}
	defer syscall.Close(fd)
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 1}); err != nil {
		return fmt.Errorf("remove packet counters: %w", err)
	}
	order := binary.NativeEndian
	for _, name := range counters {
		attr := append([]byte(name), 0)
		for len(attr)%4 != 0 {
			attr = append(attr, 0)
		}
		msg := make([]byte, 0, 64)
		msg = order.AppendUint32(msg, uint32(syscall.NLMSG_HDRLEN+4+4+len(attr)))
		msg = order.AppendUint16(msg, acctDel)
		msg = order.AppendUint16(msg, syscall.NLM_F_REQUEST|syscall.NLM_F_ACK)
		msg = append(msg, make([]byte, 8+4)...) // sequence, sender; family, version, resource
		msg = order.AppendUint16(msg, uint16(4+len(name)+1))
		msg = order.AppendUint16(msg, nameAttr)
		msg = append(msg, attr...)
		if err := syscall.Sendto(fd, msg, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
			return fmt.Errorf("remove packet counter %s: %w", name, err)
		}
		answer := make([]byte, 4096)
		n, _, err := syscall.Recvfrom(fd, answer, 0)
		if err != nil {
			return fmt.Errorf("remove packet counter %s: %w", name, err)
		}
		if n < syscall.NLMSG_HDRLEN+4 {
			return fmt.Errorf("remove packet counter %s: the kernel's answer has %d bytes", name, n)
		}
		code := syscall.Errno(-int32(order.Uint32(answer[syscall.NLMSG_HDRLEN:])))
		switch code {
		case 0, syscall.ENOENT, syscall.EINVAL, syscall.EOPNOTSUPP: // gone, never there, or no such kernel part
		default:
			return fmt.Errorf("remove packet counter %s: %w", name, code)
		}
	}
	return nil
}
