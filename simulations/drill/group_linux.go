package drill

import (
	"runtime"
	"syscall"
)

// ownGroup keeps a terminal's Ctrl-C from a process: the drill ends it when it
// is done. The process goes when the thread that started it does.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func onOwnThread(work <-chan func()) {
	runtime.LockOSThread()
	for f := range work {
		f()
	}
}
