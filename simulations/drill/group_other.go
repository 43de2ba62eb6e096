//go:build !linux

package drill

import "syscall"

// ownGroup keeps a terminal's Ctrl-C from a process: the drill ends it when it
// is done.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func onOwnThread(work <-chan func()) {
	for f := range work {
		f()
	}
}
