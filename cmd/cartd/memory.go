package main

import (
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

const (
	// serverGC is the collector's target for a process that has its machine, or
	// its container, for itself: decoded carts fill the heap with what stays,
	// and marking them at each doubling took a sixth of the processor.
	serverGC = 400
	// serverMemory is the part of the container's or the machine's memory that
	// the collector keeps the process within, where it can.
	serverMemory = 0.7
)

// useMemory lets the collector use the memory that there is. GOGC and
// GOMEMLIMIT, where they are set, are left to say otherwise.
func useMemory(log *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(serverGC)
	}
	// It reads GOMEMLIMIT itself. Where nobody says how much there is, there
	// is no limit, as before.
	if _, err := memlimit.Set(
		memlimit.WithRatio(serverMemory),
		memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)),
	); err != nil {
		log.Warn("memory limit not known", slog.Any("err", err))
	}
}
