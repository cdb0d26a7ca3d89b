package koinode

import "syscall"

// attributes have a node leave Ctrl-C to whoever started it, and die with that.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
