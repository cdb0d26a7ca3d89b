package bolt

import "syscall"

// volumeRoom is how many bytes are left to this process on the volume of path, if
// that is known.
func volumeRoom(path string) (left int64, known bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil || st.Blocks == 0 { // some have no figures
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true //nolint:unconvert // its type differs between architectures
}
