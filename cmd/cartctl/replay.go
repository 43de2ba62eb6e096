package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/samecart/samecart/cmd/cartctl/api"
	"github.com/samecart/samecart/cmd/cartctl/replay"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/proto/cart/v1/cartv1connect"
	"github.com/samecart/samecart/rpc/catalog"
	"github.com/samecart/samecart/rpc/scan"
)

// replayCmd replays real orders.
type replayCmd struct {
	Data            string        `help:"Orders to replay, CSV, gzip or not; those that come with cartctl when not given." placeholder:"FILE"`
	Limit           int           `help:"Stop after this many edits; 0: all."`
	Rate            float64       `help:"Edits a second; 0: as fast as they are acknowledged."`
	Cut             []replay.Cut  `help:"Cut a link for a part of the edits; repeatable." sep:"none" placeholder:"A,B:33%-66%"`
	Kill            []replay.Kill `help:"Kill a node for a part of the edits; repeatable." sep:"none" placeholder:"REGION/N:40%-60%"`
	Clients         int           `help:"Invoices sent at once." default:"64"`
	EditTimeout     time.Duration `help:"How long an edit is tried again before it counts as not acknowledged." default:"60s"`
	Totals          bool          `help:"Compare the totals of every cart with what its orders come to, at the lower of their prices and those of the embedded catalogue, which the regions must use. All edits of a line come from one device then: what two regions add to it at once counts by the larger, and no file tells which."`
	ConvergeTimeout time.Duration `help:"How long the regions may take to become equal." default:"60s"`
}

// Validate is called by kong.
func (c *replayCmd) Validate() error {
	switch {
	case c.Limit < 0:
		return fmt.Errorf("--limit %d is negative", c.Limit)
	case !(c.Rate >= 0): // also refuses NaN
		return fmt.Errorf("--rate %v is negative", c.Rate)
	case c.Clients < 1 || c.Clients > connections:
		return fmt.Errorf("--clients %d: give 1 to %d", c.Clients, connections)
	case c.EditTimeout <= 0 || c.ConvergeTimeout <= 0:
		return errors.New("--edit-timeout and --converge-timeout must be above 0")
	}
	return nil
}

// Run replays, proves and prints.
func (c *replayCmd) Run(a *app) error {
	// The file first: what is wrong with it needs no server.
	total, others, err := replay.Count(c.Data, c.Limit)
	if err != nil {
		return fileError(err)
	}
	var prices replay.Prices
	if c.Totals {
		if prices, err = replay.ReadPrices(bytes.NewReader(catalog.RetailFile())); err != nil {
			return err
		}
	}
	status, err := a.operator().Status(a.ctx)
	if err != nil {
		return err
	}
	regions, err := a.cluster(status)
	if err != nil {
		return err
	}
	if err := replay.CheckFaults(c.Cut, c.Kill, regions.names); err != nil {
		return usageError{err}
	}
	a.notef("nearest regions:")
	for _, line := range replay.NewPlaces(regions.names).Lines() {
		a.notef("  %s", line)
	}
	a.notef("%d edits, %d other rows (returns, corrections, free of charge), %d clients", total, others, c.Clients)

	bar := newProgress(a.stderr, total, "edits")
	carts := newReplayCarts(a, regions, c.EditTimeout)
	scans := a.scans(regions)
	report, err := replay.Run(a.ctx, replay.Config{
		File: c.Data, Limit: c.Limit, Rate: c.Rate, Clients: c.Clients,
		Regions: regions.names, Cuts: c.Cut, Kills: c.Kill, Prices: prices,
		RunID: strings.ToLower(rand.Text()[:10]),
		Settle: func(ctx context.Context) (scan.Outcome, error) {
			bar.finish()
			// A scan that hangs must not hold the proof for ever.
			ctx, cancel := context.WithTimeout(ctx, c.ConvergeTimeout+scanGrace)
			defer cancel()
			return scan.Settle(ctx, scans, c.ConvergeTimeout, settlePause)
		},
		Progress: bar.add,
		Note: func(format string, args ...any) {
			bar.clear()
			a.notef(format, args...)
		},
	}, carts, a.operator())
	bar.finish()
	if err != nil {
		if a.ctx.Err() != nil {
			return fmt.Errorf("interrupted; faults are ended: %w", err)
		}
		return fileError(err)
	}
	object := struct {
		replay.Report
		Retries  int64          `json:"retries"`
		Rejected map[string]int `json:"rejected_by_code"`
	}{report, carts.retries.Load(), carts.rejected}
	err = a.print(object, func(w *tabwriter.Writer) { printReport(w, report, object.Retries, object.Rejected) })
	if err == nil && !report.Good() {
		err = errDisproved
	}
	return err
}

// scanGrace is what one scan of all carts may take beyond --converge-timeout.
const scanGrace = 30 * time.Second

// fileError makes a file that cannot be read wrong usage.
func fileError(err error) error {
	var data *replay.DataError
	var path *fs.PathError
	if errors.As(err, &data) || errors.As(err, &path) {
		return usageError{err}
	}
	return err
}

func printReport(w *tabwriter.Writer, r replay.Report, retries int64, rejected map[string]int) {
	row(w, "edits", r.Edits, fmt.Sprintf("%d acknowledged, %d rejected, %d without an answer, %d sent again", r.Acked, r.Rejected, r.Unacked, retries))
	for _, code := range sortedKeys(rejected) {
		row(w, "", rejected[code], "rejected as "+code)
	}
	row(w, "speed", fmt.Sprintf("%.0f/s", r.EditsPerS), fmt.Sprintf("p50 %.3g ms, p99 %.3g ms, in %.3g s", r.P50, r.P99, r.Seconds))
	row(w, "faults", len(r.Faults), strings.Join(r.Faults, ", "))
	converged := fmt.Sprintf("equal %.0f ms after the last edit or heal", r.ConvergedInMS)
	if !r.Converged {
		converged = fmt.Sprintf("NOT equal after %.0f ms", r.ConvergedInMS)
	}
	row(w, "carts", r.Carts, fmt.Sprintf("%s; %d diverged, %d fields with concurrent values", converged, r.Diverged, r.Conflicts))
	row(w, "lines", "", fmt.Sprintf("%d lost, %d with more than was added", r.Lost, r.Excess))
	if r.TotalsChecked > 0 {
		row(w, "totals", r.TotalsChecked, fmt.Sprintf("carts compared with their orders, %d wrong; all of them cost %d.%02d GBP", r.TotalsWrong, r.TotalsPennies/100, r.TotalsPennies%100))
	}
	for _, f := range r.Findings {
		row(w, "found", "", f)
	}
	verdict := "proved: all regions equal, every acknowledged line there"
	if !r.Good() {
		verdict = "FAILED"
	}
	row(w, "result", "", verdict)
}

// replayCarts sends edits to the regions and reads carts; it satisfies
// replay.Carts.
type replayCarts struct {
	clients map[string]cartv1connect.CartServiceClient // by region
	bearer  string
	within  time.Duration // for one edit
	retries atomic.Int64

	mu       sync.Mutex
	rejected map[string]int // edits by the code of their refusal
}

func newReplayCarts(a *app, regions cluster, within time.Duration) *replayCarts {
	c := &replayCarts{clients: map[string]cartv1connect.CartServiceClient{}, bearer: a.bearer, within: within, rejected: map[string]int{}}
	for name, base := range regions.base {
		c.clients[name] = api.NewCart(a.http, base)
	}
	return c
}

func (c *replayCarts) policy() api.Policy {
	return api.Policy{
		Attempt: 5 * time.Second, Total: c.within, Longest: time.Second,
		Dial:    true, // a region that is down comes back, and the device waits for it
		Retried: func(error) { c.retries.Add(1) },
	}
}

// Add implements replay.Carts.
func (c *replayCarts) Add(ctx context.Context, region string, add replay.Add) error {
	msg := &cartv1.AddItemRequest{
		Line:     &cartv1.LineRef{SkuId: add.SKU, SellerId: "retail"},
		Quantity: add.Quantity,
		Price:    &cartv1.Money{Currency: "GBP", MinorUnits: add.Pennies},
	}
	err := api.Do(ctx, c.policy(), func(ctx context.Context) error {
		req := connect.NewRequest(msg)
		api.Identity{User: add.User, Scopes: "price", Bearer: c.bearer}.Apply(req.Header())
		req.Header().Set("Idempotency-Key", add.Key)
		_, err := c.clients[region].AddItem(ctx, req)
		return err
	})
	switch api.Judge(err) {
	case api.Acknowledged:
		return nil
	case api.Refused:
		c.mu.Lock()
		c.rejected[api.Describe(err).Code]++
		c.mu.Unlock()
		return fmt.Errorf("%w: %w", replay.ErrRefused, err)
	case api.Again:
		return fmt.Errorf("%w: %w", replay.ErrUnacked, err)
	case api.Broken:
	}
	return err
}

// staleError makes a stale answer be asked for again. It is a new one each
// time: a connect.Error changes when its headers are read.
func staleError() error {
	return connect.NewError(connect.CodeUnavailable, errors.New("the region answers only with a stale cart"))
}

// Read implements replay.Carts.
func (c *replayCarts) Read(ctx context.Context, region, user string) (replay.Shown, error) {
	var out replay.Shown
	err := api.Do(ctx, c.policy(), func(ctx context.Context) error {
		req := connect.NewRequest(&cartv1.GetCartRequest{})
		api.Identity{User: user, Bearer: c.bearer}.Apply(req.Header())
		answer, err := c.clients[region].GetCart(ctx, req)
		if err != nil {
			return err
		}
		if answer.Msg.GetStale() {
			return staleError()
		}
		out = shownCart(answer.Msg)
		return nil
	})
	return out, err
}

// shownCart takes from a cart what must be the same in every region. What
// comes from a region's catalogue (current price, stock, names) is not part
// of it, and neither is staleness.
func shownCart(cart *cartv1.Cart) replay.Shown {
	out := replay.Shown{Conflicts: len(cart.GetConflicts()), Total: shownTotal(cart)}
	h := sha256.New()
	text := func(values ...string) {
		for _, s := range values {
			_, _ = h.Write(binary.AppendUvarint(nil, uint64(len(s)))) // a hash never fails
			_, _ = io.WriteString(h, s)
		}
	}
	number := func(n int64) { _, _ = h.Write(binary.AppendVarint(nil, n)) }
	for _, items := range [][]*cartv1.Item{cart.GetItems(), cart.GetSavedItems()} {
		number(int64(len(items)))
		for _, item := range items {
			text(item.GetSkuId(), item.GetSellerId(), pairs(item.GetOptions()), item.GetPriceAtAdd().GetCurrency())
			number(int64(item.GetQuantity()))
			number(item.GetPriceAtAdd().GetMinorUnits())
			number(item.GetAddedAtMs())
			// A saved line is not lost: it counts wherever it stands.
			out.Lines = append(out.Lines, replay.ShownLine{SKU: item.GetSkuId(), Quantity: uint64(item.GetQuantity())})
		}
	}
	number(int64(len(cart.GetConflicts())))
	for _, c := range cart.GetConflicts() {
		text(c.GetSkuId(), c.GetSellerId(), c.GetField(), c.GetValue())
		text(slices.Sorted(slices.Values(c.GetValues()))...)
	}
	h.Sum(out.Fingerprint[:0])
	return out
}

func shownTotal(cart *cartv1.Cart) replay.ShownTotal {
	out := replay.ShownTotal{
		Total:    replay.Total{Pennies: cart.GetSubtotal().GetMinorUnits(), Items: cart.GetItemCount()},
		Currency: cart.GetSubtotal().GetCurrency(), Estimated: cart.GetEstimatedTotal().GetMinorUnits(),
		Sellers: map[string]replay.Total{},
	}
	for _, s := range cart.GetSellers() {
		out.Sellers[s.GetSellerId()] = replay.Total{Pennies: s.GetSubtotal().GetMinorUnits(), Items: s.GetItemCount()}
	}
	return out
}

// progress is a bar on a terminal, and nothing elsewhere. Its methods are
// safe for concurrent use.
type progress struct {
	mu  sync.Mutex
	bar *progressbar.ProgressBar // nil: no terminal, or finished
}

// newProgress returns the bar of a command; a total of -1 is not known.
func newProgress(stderr io.Writer, total int, what string) *progress {
	f, ok := stderr.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return &progress{}
	}
	return &progress{bar: progressbar.NewOptions(total,
		progressbar.OptionSetWriter(f), progressbar.OptionSetDescription(what), progressbar.OptionSetWidth(30),
		progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish())}
}

func (p *progress) add() { p.addMany(1) }

func (p *progress) addMany(n int) { p.do(func(b *progressbar.ProgressBar) error { return b.Add(n) }) }

func (p *progress) clear() { p.do((*progressbar.ProgressBar).Clear) }

func (p *progress) finish() {
	p.do((*progressbar.ProgressBar).Clear)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bar = nil
}

func (p *progress) do(f func(*progressbar.ProgressBar) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = f(p.bar) // a terminal that cannot be written to hides nothing else
	}
}
