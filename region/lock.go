//go:build !wasip1

package region

import (
	"os"
	"syscall"
)

// flock keeps other processes, and other Nodes of this one, out of a directory.
func flock(dir *os.File) error {
	return syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}
