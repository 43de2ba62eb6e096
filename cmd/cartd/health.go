package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// healthCommand is the health check of images that have no shell.
type healthCommand struct {
	Addr    string        `help:"Address of the API." default:"http://127.0.0.1:8080" placeholder:"URL" env:"SAMECART_ADDR"`
	Timeout time.Duration `help:"Longest wait for the answer." default:"2s"`
}

// Run asks once.
func (c *healthCommand) Run(ctx context.Context, out io.Writer) error {
	if !isURL(c.Addr, "http", "https") {
		return usageError{fmt.Errorf("--addr %q: give http://HOST:PORT or https://HOST", c.Addr)}
	}
	if c.Timeout <= 0 {
		return usageError{fmt.Errorf("--timeout %v: give more than 0", c.Timeout)}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(c.Addr, "/")+"/readyz", nil)
	if err != nil {
		return usageError{fmt.Errorf("--addr %q: %w", c.Addr, err)}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return fmt.Errorf("no whole answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, strings.TrimSpace(string(said)))
	}
	fmt.Fprint(out, string(said))
	return nil
}
