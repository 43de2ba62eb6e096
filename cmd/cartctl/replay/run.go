package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samecart/samecart/cmd/cartctl/latency"
	"github.com/samecart/samecart/rpc/scan"
)

// Add is one edit: a line of an invoice that is put into its cart.
type Add struct {
	User     string
	SKU      string
	Quantity uint32
	Pennies  int64  // GBP
	Key      string // idempotency key
}

// Errors with which Carts.Add says what became of an edit.
var (
	// ErrRefused: the region answered that it does not take this edit.
	ErrRefused = errors.New("edit refused")
	// ErrUnacked: no answer in time; the edit may or may not be there.
	ErrUnacked = errors.New("edit not acknowledged")
)

// Carts is what a replay needs of the regions' carts. Its methods are called
// by many goroutines.
type Carts interface {
	// Add sends an edit to a region until that answers. nil means acknowledged;
	// an error that is neither ErrRefused nor ErrUnacked ends the replay.
	Add(ctx context.Context, region string, add Add) error
	// Read returns the user's cart as the region shows it, not stale.
	Read(ctx context.Context, region, user string) (Shown, error)
}

// Faults sets and ends faults; each call returns when it is in force.
type Faults interface {
	Cut(ctx context.Context, a, b string) error
	Heal(ctx context.Context, a, b string) error
	Kill(ctx context.Context, node string) error
	Start(ctx context.Context, node string) error
}

// Config says what is replayed, and how.
type Config struct {
	File    string   // empty: the embedded orders
	Limit   int      // edits; 0: all
	Rate    float64  // edits a second; 0: as fast as they are acknowledged
	Clients int      // invoices at once; ≥ 1
	Regions []string // at least one, in a fixed order
	Cuts    []Cut
	Kills   []Kill
	RunID   string // makes users and keys unique; letters and digits
	// Prices are the catalogue's; not nil: each cart's totals are compared with
	// what its orders come to.
	Prices Prices

	// Settle waits until all regions are equal, as scan.Settle does.
	Settle func(ctx context.Context) (scan.Outcome, error)
	// Progress is told of each edit that has an answer, when not nil; it is
	// called by many goroutines.
	Progress func()
	// Note is told what happens, in words for people, when not nil.
	Note func(format string, args ...any)
}

// Report is the outcome of a replay, in the form that --json prints.
type Report struct {
	Edits     int     `json:"edits"` // acked + rejected + unacked
	Acked     int     `json:"acked"`
	Rejected  int     `json:"rejected"`  // refused by a region
	Lost      int     `json:"lost"`      // acknowledged lines that are missing or too small
	Diverged  int     `json:"diverged"`  // carts that are not the same in all regions
	Conflicts int     `json:"conflicts"` // fields with concurrent values, at the end
	EditsPerS float64 `json:"edits_per_s"`
	P50       float64 `json:"p50_ms"` // from first attempt to acknowledgement
	P99       float64 `json:"p99_ms"`
	// From the last edit or heal to the end of the comparison that found all
	// equal: an upper bound, with the time of a scan of all carts in it.
	ConvergedInMS float64 `json:"converged_in_ms"`

	Unacked int `json:"unacked"` // without an answer in time
	Excess  int `json:"excess"`  // lines above the sum of their edits, or that nobody added
	// Carts whose totals were compared with what their orders come to, those
	// that were wrong in a region, and what all of them cost.
	TotalsChecked int   `json:"totals_checked"`
	TotalsWrong   int   `json:"totals_wrong"`
	TotalsPennies int64 `json:"totals_pennies"`

	Skipped   int      `json:"skipped"` // rows that are no sale
	Carts     int      `json:"carts"`
	Stopped   bool     `json:"stopped"`   // before all edits were sent, as too many had no answer
	Converged bool     `json:"converged"` // before the time was over
	Seconds   float64  `json:"seconds"`   // of the edits
	ProofS    float64  `json:"proof_s"`   // of reading every cart in every region
	Run       string   `json:"run"`
	Faults    []string `json:"faults"`

	Findings []string `json:"findings"` // the first that are wrong, at most findingsMax
}

// findingsMax bounds Report.Findings.
const findingsMax = 10

// Good reports whether the replay proved what it is for.
func (r Report) Good() bool {
	return r.Lost == 0 && r.Diverged == 0 && r.Unacked == 0 && r.Excess == 0 && r.TotalsWrong == 0 && r.Converged
}

// unackedMin is how many edits may stay without an answer, whatever the number
// of clients, before no more are sent.
const unackedMin = 8

// chunkLines bounds how much of one invoice is held in memory at a time. It is
// above any real invoice (the longest has 1,114 lines): the client that takes
// the second chunk of an invoice can only wait for the first.
const chunkLines = 2048

// endFaultsWithin bounds the clean-up of faults, also after an interrupt.
const endFaultsWithin = 30 * time.Second

// cart is one invoice's cart.
type cart struct {
	user   string
	places [2]string
	ledger ledger
	lines  int           // dispatched so far: gives the device of the next
	last   chan struct{} // closed when the chunk dispatched last is done
}

// chunk is some lines of one invoice, in order.
type chunk struct {
	cart  *cart
	lines []Line
	first int           // position of lines[0] in the invoice
	after chan struct{} // wait for this
	done  chan struct{} // close this
}

// run is the state of one Run.
type run struct {
	cfg    Config
	carts  Carts
	places Places
	gate   *gate
	start  time.Time
	last   atomic.Int64 // when the last answer came, nanoseconds after start

	next                     atomic.Int64 // number of the next edit
	acked, rejected, unacked atomic.Int64
	stopped                  atomic.Bool // hand out no more edits

	all     []*cart // by first appearance; written by the dispatcher alone
	skipped int     // the same

	mu        sync.Mutex
	latencies latency.Sample
}

// Run replays the orders, ends all faults, waits until the regions are equal,
// and reads every cart in every region. Its error says that the replay could not be done;
// whether it proved anything is for Report.Good to say. Faults are ended also
// when ctx ends.
func Run(ctx context.Context, cfg Config, carts Carts, faults Faults) (Report, error) {
	if err := CheckFaults(cfg.Cuts, cfg.Kills, cfg.Regions); err != nil {
		return Report{}, err
	}
	if cfg.Note == nil {
		cfg.Note = func(string, ...any) {}
	}
	total, _, err := Count(cfg.File, cfg.Limit)
	if err != nil {
		return Report{}, err
	}
	events := timeline(cfg.Cuts, cfg.Kills, total)
	r := &run{cfg: cfg, carts: carts, places: NewPlaces(cfg.Regions)}
	r.gate = newGate(events, func(ctx context.Context, e event) error {
		if err := apply(ctx, faults, e); err != nil {
			return err
		}
		cfg.Note("%v before edit %d of %d (%.0f %%)", e, e.at+1, total, 100*float64(e.at)/float64(total))
		return nil
	})
	r.start = time.Now()
	sendErr := r.send(ctx)
	lastEdit := r.start.Add(time.Duration(r.last.Load()))
	ended, endErr := r.endFaults(ctx, faults)
	if err := errors.Join(sendErr, endErr); err != nil {
		return Report{}, err
	}
	if ended.Before(lastEdit) {
		ended = lastEdit
	}

	report := Report{
		Acked: int(r.acked.Load()), Rejected: int(r.rejected.Load()), Unacked: int(r.unacked.Load()),
		Skipped: r.skipped, Carts: len(r.all), Run: cfg.RunID,
		Seconds: rounded(lastEdit.Sub(r.start).Seconds(), 3),
		Stopped: r.stopped.Load(),
		Faults:  []string{}, Findings: []string{},
	}
	report.Edits = report.Acked + report.Rejected + report.Unacked
	for _, e := range events {
		if e.begin {
			report.Faults = append(report.Faults, e.String())
		}
	}
	if report.Seconds > 0 {
		report.EditsPerS = rounded(float64(report.Acked)/lastEdit.Sub(r.start).Seconds(), 1)
	}
	r.latencies.Sort()
	report.P50 = latency.Milliseconds(r.latencies.Percentile(50))
	report.P99 = latency.Milliseconds(r.latencies.Percentile(99))
	cfg.Note("%d edits in %.1f s (%.0f/s); waiting until all regions are equal", report.Edits, report.Seconds, report.EditsPerS)
	return r.prove(ctx, report, ended)
}

func rounded(x float64, digits int) float64 {
	p := math.Pow10(digits)
	return math.Round(x*p) / p
}

// apply begins or ends the fault of e.
func apply(ctx context.Context, faults Faults, e event) error {
	var err error
	switch {
	case e.cut.A != "" && e.begin:
		err = faults.Cut(ctx, e.cut.A, e.cut.B)
	case e.cut.A != "":
		err = faults.Heal(ctx, e.cut.A, e.cut.B)
	case e.begin:
		err = faults.Kill(ctx, e.kill.Node)
	default:
		err = faults.Start(ctx, e.kill.Node)
	}
	if err != nil {
		return fmt.Errorf("%v: %w", e, err)
	}
	return nil
}

// endFaults ends what is still in force, and returns when the last fault of
// the run ended (zero: there was none). It works also when ctx is over.
func (r *run) endFaults(ctx context.Context, faults Faults) (time.Time, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endFaultsWithin)
	defer cancel()
	ended := r.gate.lastEnd
	var errs []error
	for _, e := range r.gate.open {
		e.begin = false
		if err := apply(ctx, faults, e); err != nil {
			errs = append(errs, err)
			continue
		}
		r.cfg.Note("%v after the last edit", e)
		ended = time.Now()
	}
	return ended, errors.Join(errs...)
}

// send dispatches the invoices to the clients and returns when all edits have
// their outcome.
func (r *run) send(ctx context.Context) error {
	orders, err := Orders(r.cfg.File)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	work := make(chan chunk)
	stopGate := make(chan struct{})
	gateDone := make(chan struct{})
	go func() {
		defer close(gateDone)
		r.gate.run(ctx, stopGate)
	}()
	group.Go(func() error {
		defer close(work)
		return r.dispatch(ctx, orders, work)
	})
	for range r.cfg.Clients {
		group.Go(func() error { return r.client(ctx, work) })
	}
	err = group.Wait()
	close(stopGate)
	<-gateDone // its fields are read after this
	return errors.Join(err, orders.Close())
}

// dispatch groups rows into chunks of one invoice each and hands them out.
func (r *run) dispatch(ctx context.Context, orders *Reader, work chan<- chunk) error {
	byInvoice := map[string]*cart{}
	var current *cart
	var lines []Line
	flush := func() error {
		if len(lines) == 0 {
			return nil
		}
		c := chunk{cart: current, lines: lines, first: current.lines, after: current.last, done: make(chan struct{})}
		current.lines += len(lines)
		current.last = c.done
		lines = nil
		select {
		case work <- c:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for sales := 0; (r.cfg.Limit <= 0 || sales < r.cfg.Limit) && !r.stopped.Load(); {
		line, err := orders.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if !line.Sale {
			r.skipped++
			continue
		}
		sales++
		c, ok := byInvoice[line.Invoice]
		if !ok {
			ready := make(chan struct{})
			close(ready)
			c = &cart{
				user:   "replay-" + r.cfg.RunID + "-" + userPart(line.Invoice, len(r.all)),
				places: r.places.Devices(line.Country, len(r.all)),
				last:   ready,
			}
			byInvoice[line.Invoice] = c
			r.all = append(r.all, c)
		}
		if c != current || len(lines) >= chunkLines {
			if err := flush(); err != nil {
				return err
			}
			current = c
		}
		lines = append(lines, line)
	}
	return flush()
}

// userPart makes an invoice's number, which may be any text in a file that is
// not the real one, fit into a user id; n keeps it unique.
func userPart(invoice string, n int) string {
	plain := strings.Trim(invoice, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz") == ""
	if plain && len(invoice) <= 24 {
		return invoice
	}
	return fmt.Sprintf("row-%d", n)
}

// client sends chunks until there are no more.
func (r *run) client(ctx context.Context, work <-chan chunk) error {
	var mine latency.Sample
	defer func() {
		r.mu.Lock()
		r.latencies = append(r.latencies, mine...)
		r.mu.Unlock()
	}()
	for c := range work {
		select {
		case <-c.after:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for i, line := range c.lines {
			if r.stopped.Load() {
				break
			}
			took, err := r.edit(ctx, c.cart, c.first+i, line)
			if err != nil {
				return err
			}
			if took > 0 {
				mine = append(mine, took)
			}
		}
		close(c.done)
	}
	return nil
}

// edit sends the position-th line of a cart from the device whose turn it is,
// and enters the outcome in the ledger. took is 0 when it was not acknowledged.
func (r *run) edit(ctx context.Context, c *cart, position int, line Line) (took time.Duration, err error) {
	n := r.next.Add(1) - 1
	if err := r.gate.pass(ctx, n); err != nil {
		return 0, err
	}
	if r.cfg.Rate > 0 {
		due := r.start.Add(time.Duration(float64(n) / r.cfg.Rate * float64(time.Second)))
		if err := sleep(ctx, time.Until(due)); err != nil {
			return 0, err
		}
	}
	add := Add{
		User: c.user, SKU: line.SKU, Pennies: line.Pennies,
		Quantity: uint32(min(line.Quantity, math.MaxUint32)), // refused as the real one would be
		Key:      fmt.Sprintf("%s-%d", c.user, position),
	}
	place := c.places[position%2]
	if r.cfg.Prices != nil {
		place = c.places[c.ledger.deviceOf(line.SKU, position%2)]
	}
	begun := time.Now()
	err = r.carts.Add(ctx, place, add)
	ended := time.Now()
	switch {
	case err == nil:
		c.ledger.acknowledge(add.SKU, add.Quantity, add.Pennies)
		r.acked.Add(1)
		took = max(ended.Sub(begun), 1)
	case errors.Is(err, ErrRefused):
		r.rejected.Add(1)
	case errors.Is(err, ErrUnacked) && ctx.Err() == nil:
		c.ledger.doubt(add.SKU, add.Quantity)
		// Every client has waited in vain once: the rest of the file would
		// take hours to fail the same way.
		if r.unacked.Add(1) >= int64(max(r.cfg.Clients, unackedMin)) && !r.stopped.Swap(true) {
			r.cfg.Note("too many edits are not acknowledged: sending no more")
		}
		r.cfg.Note("edit %d (%s, %s) was not acknowledged: %v", n+1, c.user, add.SKU, err)
	default:
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		return 0, fmt.Errorf("add %q to the cart of %s in %s: %w", add.SKU, c.user, place, err)
	}
	r.advanceLast(ended.Sub(r.start))
	if r.cfg.Progress != nil {
		r.cfg.Progress()
	}
	return took, nil
}

func (r *run) advanceLast(d time.Duration) {
	for {
		have := r.last.Load()
		if int64(d) <= have || r.last.CompareAndSwap(have, int64(d)) {
			return
		}
	}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// prove waits until the regions are equal and reads every cart in each.
func (r *run) prove(ctx context.Context, report Report, ended time.Time) (Report, error) {
	outcome, err := r.cfg.Settle(ctx)
	if err != nil {
		return report, fmt.Errorf("wait for equal regions: %w", err)
	}
	report.Converged = !outcome.EqualAt.IsZero()
	equalAt := outcome.EqualAt
	if !report.Converged {
		equalAt = time.Now()
	}
	report.ConvergedInMS = latency.Milliseconds(equalAt.Sub(ended))
	found := func(format string, args ...any) {
		if len(report.Findings) < findingsMax {
			report.Findings = append(report.Findings, fmt.Sprintf(format, args...))
		}
	}
	for _, d := range outcome.First {
		found("digests differ: %v", d)
	}
	r.cfg.Note("reading %d carts in each of %d regions", len(r.all), len(r.cfg.Regions))
	begun := time.Now()
	var mu sync.Mutex // guards report and what found changes
	shownDiverged := 0
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(r.cfg.Clients)
	for _, c := range r.all {
		if gctx.Err() != nil {
			break
		}
		group.Go(func() error {
			shown := make([]Shown, len(r.cfg.Regions))
			for i, region := range r.cfg.Regions {
				var err error
				if shown[i], err = r.carts.Read(gctx, region, c.user); err != nil {
					return fmt.Errorf("read the cart of %s in %s: %w", c.user, region, err)
				}
			}
			lost, excess := c.ledger.check(r.cfg.Regions, shown)
			total, known := c.ledger.total(r.cfg.Prices)
			mu.Lock()
			defer mu.Unlock()
			if known && r.cfg.Prices != nil {
				report.TotalsChecked++
				report.TotalsPennies += total.Pennies
				for i, region := range r.cfg.Regions {
					if wrong := total.wrong(shown[i].Total); wrong != "" {
						report.TotalsWrong++
						found("%s in %s: shows %s, its orders come to %d items for %d pennies", c.user, region, wrong, total.Items, total.Pennies)
						break
					}
				}
			}
			report.Conflicts += shown[0].Conflicts
			report.Lost += len(lost)
			report.Excess += len(excess)
			if !equal(shown) {
				shownDiverged++
				found("%s is not shown the same in all regions", c.user)
			}
			for _, f := range slices.Concat(lost, excess) {
				found("%s in %s: line %s has %d, allowed are %d to %d", c.user, f.Region, f.SKU, f.Have, f.AtLeast, f.AtMost)
			}
			return nil
		})
	}
	err = group.Wait()
	report.ProofS = rounded(time.Since(begun).Seconds(), 3)
	// A cart whose digests differ may be shown the same, and the other way
	// round; most carts of the one count are in the other.
	report.Diverged = max(outcome.Diverged, shownDiverged)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return report, err
}
