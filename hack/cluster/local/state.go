package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// state is what Up notes before it changes anything on the machine.
type state struct {
	// Assets are the directories of the components the cluster runs from.
	Assets map[string]string `json:"assets"`
	// NodeIP is the node's address.
	NodeIP netip.Addr `json:"nodeIP"`
	// Sysctls are the kernel settings as they were.
	Sysctls map[string]string `json:"sysctls"`
	// Absent are the shared directories that were not there.
	Absent []string `json:"absent"`
	// Chains are the firewall chains that were there, podman's say, and stay.
	Chains []chain `json:"chains"`
}

// sysctls are the kernel settings that the cluster's daemons change, as paths below
// /proc/sys.
var sysctls = []string{
	"net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet",
	"kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	"vm/overcommit_memory", "vm/panic_on_oom",
}

// sharedDirs are the directories outside the run directory that daemons write to
// whatever they are told, each before the one it is in.
var sharedDirs = []string{
	"/run/containerd/s", "/run/containerd/runc/k8s.io", "/run/containerd/runc", "/run/containerd/fifo", "/run/containerd",
	"/var/lib/cni/results", "/var/lib/cni", "/var/log/containers", "/var/log/pods",
	"/var/lib/kubelet/device-plugins", "/var/lib/kubelet",
	"/usr/libexec/kubernetes/kubelet-plugins/volume/exec", "/usr/libexec/kubernetes/kubelet-plugins/volume",
	"/usr/libexec/kubernetes/kubelet-plugins", "/usr/libexec/kubernetes",
}

func stateFile(run string) string { return filepath.Join(run, "state.json") }

// readState returns what Up noted; an error that is os.ErrNotExist where no cluster is.
func readState(run string) (*state, error) {
	b, err := os.ReadFile(stateFile(run))
	if err != nil {
		return nil, fmt.Errorf("read the cluster's state: %w", err)
	}
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("read the cluster's state: %s is damaged: %w", stateFile(run), err)
	}
	return &s, nil
}

// write puts the state in place as a whole or not at all.
func (s *state) write(run string) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("note the machine's state: %w", err)
	}
	tmp := stateFile(run) + ".tmp"
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("note the machine's state: %w", err)
	}
	if err := os.Rename(tmp, stateFile(run)); err != nil {
		return fmt.Errorf("note the machine's state: %w", err)
	}
	return nil
}

// readSysctls returns the settings that this kernel has.
func readSysctls() (map[string]string, error) {
	out := map[string]string{}
	for _, name := range sysctls {
		b, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the kernel setting %s: %w", name, err)
		}
		out[name] = strings.TrimSpace(string(b))
	}
	return out, nil
}

// restoreSysctls writes back the settings that differ.
func restoreSysctls(before map[string]string) error {
	now, err := readSysctls()
	if err != nil {
		return err
	}
	var errs []error
	for name, value := range before {
		if now[name] != value {
			if err := setSysctl(name, value); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func setSysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys", name), []byte(value), 0); err != nil {
		return fmt.Errorf("set the kernel setting %s: %w", name, err)
	}
	return nil
}

// absentDirs returns the shared directories that are not there.
func absentDirs() []string {
	var out []string
	for _, dir := range sharedDirs {
		if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
			out = append(out, dir)
		}
	}
	return out
}
