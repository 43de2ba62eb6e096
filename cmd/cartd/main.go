package main

import (
	"context"
	"errors"
	"fmt"
	"io"
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

func main() { os.Exit(process()) }

// process runs this process's command line until a signal ends it.
func process() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// After the first signal the next one kills: a stop that hangs must not
	// hold the terminal.
	context.AfterFunc(ctx, stop)
	defer stop()
	return run(ctx, os.Args[1:], os.Stdout, os.Stderr)
}

// run runs one command line until ctx ends and returns the exit code: 0 good,
// 1 failed, 2 for what the caller can mend.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	parsed, err := c.parse(args, stdout, stderr)
	if err != nil {
		return complain(stderr, 2, fmt.Errorf("%w; see %s --help", err, commandOf(err)))
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Log)); err != nil {
		return complain(stderr, 2, err)
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	if c.DebugListen != "" {
		if err := serveProfiles(c.DebugListen, log); err != nil {
			return complain(stderr, 2, err)
		}
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.BindTo(stdout, (*io.Writer)(nil))
	err = parsed.Run(log)
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return complain(stderr, 2, err)
	case err != nil:
		return complain(stderr, 1, err)
	}
	return 0
}

// parse reads a command line, with the environment and the file it names.
func (c *cli) parse(args []string, stdout, stderr io.Writer) (*kong.Context, error) {
	parser, err := kong.New(c,
		kong.Name("cartd"), kong.Description("Samecart: one cart per shopper, the same in every region, writable in all of them."),
		kong.Writers(stdout, stderr), kong.Configuration(loadYAML))
	if err != nil {
		return nil, err
	}
	return parser.Parse(args)
}

// commandOf is the command whose flags were wrong, as far as it was read.
func commandOf(err error) string {
	var wrong *kong.ParseError
	if errors.As(err, &wrong) && wrong.Context != nil {
		if command := wrong.Context.Selected(); command != nil {
			return "cartd " + command.Name
		}
	}
	return "cartd"
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

// complain prints the error on one line.
func complain(stderr io.Writer, code int, err error) int {
	fmt.Fprintln(stderr, "cartd:", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
	return code
}
