//go:build !linux

package main

// roomBeside is how many bytes are left to this process on the volume of path. It
// is known on Linux alone; elsewhere a full volume is met when it is written to.
func roomBeside(string) (left int64, known bool) { return 0, false }
