package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

// usageError is one that the caller can mend before another start: wrong
// flags, a port in use, a data directory that is not ours.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("cartd"), kong.Description("Samecart: one cart per shopper, the same in every region, writable in all of them."),
		kong.UsageOnError(), kong.Configuration(loadYAML))
	if err != nil {
		exit(2, err)
	}
	run, err := parser.Parse(os.Args[1:])
	if err != nil {
		exit(2, err)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log)); err != nil {
		exit(2, err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if c.DebugListen != "" {
		if err := serveProfiles(c.DebugListen, log); err != nil {
			exit(2, err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	run.BindTo(ctx, (*context.Context)(nil))
	err = run.Run(log)
	stop()
	var usage usageError
	switch {
	case errors.As(err, &usage):
		exit(2, err)
	case err != nil:
		exit(1, err)
	}
}

// serveProfiles serves pprof on an address of its own, never on a public one.
func serveProfiles(addr string, log *slog.Logger) error {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("--debug-listen %s: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { log.Error("profiles are not served any more", slog.Any("err", s.Serve(ln))) }()
	return nil
}

// exit prints the error on one line and ends the process.
func exit(code int, err error) {
	fmt.Fprintln(os.Stderr, "cartd:", strings.ReplaceAll(err.Error(), "\n", "; "))
	os.Exit(code)
}
