package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/cmd/cartctl/api"
	"github.com/samecart/samecart/cmd/cartctl/latency"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
)

// benchCmd measures one address in a closed loop: each client waits for its
// answer before it sends the next call.
type benchCmd struct {
	Name     string        `arg:"" enum:"add,get,mixed" help:"What is measured: add, get, or mixed (one add to nine gets)."`
	Clients  int           `help:"Calls at once." default:"64"`
	Duration time.Duration `help:"How long." default:"10s"`
	Carts    int           `help:"Carts that the calls are spread over." default:"1000"`
	Region   string        `help:"Measure this region, not the one that --addr picks." placeholder:"NAME"`
	Codec    string        `help:"How Connect messages are written: binary or json." enum:"binary,json" default:"binary"`
}

// Validate is called by kong.
func (c *benchCmd) Validate() error {
	switch {
	case c.Clients < 1 || c.Clients > connections:
		return fmt.Errorf("--clients %d: give 1 to %d", c.Clients, connections)
	case c.Duration <= 0:
		return fmt.Errorf("--duration %v must be above 0", c.Duration)
	case c.Carts < 1:
		return fmt.Errorf("--carts %d: give at least 1", c.Carts)
	}
	return nil
}

// linesPerCart is how many SKUs of the demo catalogue a benchmark's cart
// holds: the median order of the real data has 15.
const linesPerCart = 15

// benchResult is what one benchmark measured.
type benchResult struct {
	Name     string           `json:"name"`
	Address  string           `json:"address"`
	Clients  int              `json:"clients"`
	Carts    int              `json:"carts"`
	Codec    string           `json:"codec"`
	Seconds  float64          `json:"seconds"`
	Calls    int              `json:"calls"` // answered without an error
	Errors   int              `json:"errors"`
	ByCode   map[string]int64 `json:"errors_by_code"`
	CallsPer float64          `json:"calls_per_s"`
	P50      float64          `json:"p50_ms"`
	P90      float64          `json:"p90_ms"`
	P99      float64          `json:"p99_ms"`
	Max      float64          `json:"max_ms"`
}

// benchClient is one of the clients that call at once.
type benchClient struct {
	cmd    *benchCmd
	rpc    cartv1connect.CartServiceClient
	run    string
	bearer string
	random *mathrand.Rand

	took   latency.Sample
	errors map[string]int64
	keys   uint64 // idempotency keys given out
	id     int
}

// Run measures and prints.
func (c *benchCmd) Run(a *app) error {
	base := a.base
	if c.Region != "" {
		regions, err := a.regions()
		if err != nil {
			return err
		}
		if base, err = api.Find(regions, c.Region); err != nil {
			return usageError{err}
		}
	}
	var opts []connect.ClientOption
	if c.Codec == "json" {
		opts = append(opts, connect.WithProtoJSON())
	}
	run := strings.ToLower(rand.Text()[:8])
	clients := make([]*benchClient, c.Clients)
	for i := range clients {
		clients[i] = &benchClient{
			cmd: c, rpc: api.NewCart(a.http, base, opts...), run: run, bearer: a.bearer, id: i,
			random: mathrand.New(mathrand.NewPCG(uint64(i), 1)), errors: map[string]int64{},
		}
	}
	// One call first: it makes what cannot work at all an error, not a result.
	if err := clients[0].once(a.ctx, false); err != nil {
		return err
	}
	if c.Name != "add" {
		a.notef("filling %d carts with %d lines each", c.Carts, linesPerCart)
		if err := fill(a.ctx, clients, c.Carts); err != nil {
			return fmt.Errorf("fill carts: %w", err)
		}
	}
	begun := time.Now()
	// No deadline: the last calls would carry it to the server, which would
	// answer them with a time-out of its own.
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	defer time.AfterFunc(c.Duration, cancel).Stop()
	var wait sync.WaitGroup
	for _, client := range clients {
		wait.Go(func() { client.loop(ctx) })
	}
	wait.Wait()
	elapsed := time.Since(begun)
	if a.ctx.Err() != nil {
		return errors.New("interrupted")
	}
	result := c.result(clients, base, elapsed)
	err := a.print(result, func(w *tabwriter.Writer) {
		row(w, "NAME", "CLIENTS", "CALLS/S", "P50 MS", "P90 MS", "P99 MS", "MAX MS", "ERRORS")
		row(w, result.Name, result.Clients, result.CallsPer, result.P50, result.P90, result.P99, result.Max, result.Errors)
		for _, code := range sortedKeys(result.ByCode) {
			row(w, "  "+code, result.ByCode[code])
		}
	})
	if err == nil && result.Calls == 0 {
		err = errDisproved
	}
	return err
}

func (c *benchCmd) result(clients []*benchClient, base string, elapsed time.Duration) benchResult {
	out := benchResult{
		Name: c.Name, Address: base, Clients: c.Clients, Carts: c.Carts, Codec: c.Codec,
		Seconds: math.Round(elapsed.Seconds()*1000) / 1000, ByCode: map[string]int64{},
	}
	var all latency.Sample
	for _, client := range clients {
		all = append(all, client.took...)
		for code, n := range client.errors {
			out.ByCode[code] += n
			out.Errors += int(n)
		}
	}
	all.Sort()
	out.Calls = len(all)
	out.CallsPer = math.Round(float64(len(all))/elapsed.Seconds()*10) / 10
	out.P50 = latency.Milliseconds(all.Percentile(50))
	out.P90 = latency.Milliseconds(all.Percentile(90))
	out.P99 = latency.Milliseconds(all.Percentile(99))
	out.Max = latency.Milliseconds(all.Percentile(100))
	return out
}

// fill gives every cart its lines, in as many calls at once as there are
// clients.
func fill(ctx context.Context, clients []*benchClient, carts int) error {
	errs := make([]error, len(clients))
	var wait sync.WaitGroup
	for i, client := range clients {
		wait.Go(func() {
			for cart := i; cart < carts && errs[i] == nil; cart += len(clients) {
				edits := make([]*cartv1.Edit, linesPerCart)
				for n := range edits {
					edits[n] = &cartv1.Edit{Edit: &cartv1.Edit_Add{Add: &cartv1.AddItemRequest{Line: benchLine(n), Quantity: 1}}}
				}
				key := client.key()
				errs[i] = api.Do(ctx, api.Interactive(), func(ctx context.Context) error {
					req := connect.NewRequest(&cartv1.BatchEditRequest{Edits: edits})
					client.sign(req, cart)
					req.Header().Set("Idempotency-Key", key)
					_, err := client.rpc.BatchEdit(ctx, req)
					return err
				})
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}

func benchLine(n int) *cartv1.LineRef { return &cartv1.LineRef{SkuId: fmt.Sprintf("SKU-%d", n+1)} }

// loop calls until ctx ends. A call that the end cuts off does not count.
func (b *benchClient) loop(ctx context.Context) {
	for ctx.Err() == nil {
		isAdd := b.cmd.Name == "add" || b.cmd.Name == "mixed" && b.random.IntN(10) == 0
		begun := time.Now()
		err := b.once(ctx, isAdd)
		took := time.Since(begun)
		switch {
		case err == nil:
			b.took = append(b.took, took)
		case ctx.Err() != nil:
			return
		default:
			b.errors[api.Describe(err).Code]++
		}
	}
}

// once makes one call, without retries: what fails is counted, not hidden.
func (b *benchClient) once(ctx context.Context, isAdd bool) error {
	cart := b.random.IntN(b.cmd.Carts)
	if !isAdd {
		req := connect.NewRequest(&cartv1.GetCartRequest{})
		b.sign(req, cart)
		_, err := b.rpc.GetCart(ctx, req)
		return err
	}
	req := connect.NewRequest(&cartv1.AddItemRequest{Line: benchLine(b.random.IntN(linesPerCart)), Quantity: 1})
	b.sign(req, cart)
	req.Header().Set("Idempotency-Key", b.key())
	_, err := b.rpc.AddItem(ctx, req)
	return err
}

func (b *benchClient) key() string {
	b.keys++
	return fmt.Sprintf("bench-%s-%d-%d", b.run, b.id, b.keys)
}

// sign sets the identity of the cart-th shopper.
func (b *benchClient) sign(req connect.AnyRequest, cart int) {
	api.Identity{User: fmt.Sprintf("bench-%s-%d", b.run, cart), Bearer: b.bearer}.Apply(req.Header())
}
