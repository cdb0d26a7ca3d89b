//go:build !linux

package koinode

import "syscall"

func attributes() *syscall.SysProcAttr { return nil }
