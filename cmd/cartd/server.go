package main

import (
	"context"
	"log/slog"
)

// Run runs one node.
func (c *nodeCommand) Run(ctx context.Context, log *slog.Logger) error { return nil }

// Run runs a gateway.
func (c *gatewayCommand) Run(ctx context.Context, log *slog.Logger) error { return nil }
