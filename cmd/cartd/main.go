package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

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

// exit prints the error on one line and ends the process.
func exit(code int, err error) {
	fmt.Fprintln(os.Stderr, "cartd:", strings.ReplaceAll(err.Error(), "\n", "; "))
	os.Exit(code)
}
