package simulations

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/store"
	"github.com/samecart/samecart/simulations/check"
)

// Result is what a run of a plan came to.
type Result struct {
	Plan       Plan
	Violations []check.Violation
	Trace      string // its hash
	Totals     *Totals
}

// How says how plans are run.
type How struct {
	Root  string    // where the disks are; a directory in memory is fastest
	Log   io.Writer // what nodes log goes there; nil: nowhere
	Trace io.Writer // what happens goes there; nil: nowhere
}

// Root is where disks of simulations are best kept: in memory, where there is such a
// place, since the time that a disk takes is simulated.
func Root() (string, error) {
	for _, dir := range []string{"/dev/shm", ""} {
		if root, err := os.MkdirTemp(dir, "samecart-sim-"); err == nil {
			return root, nil
		}
	}
	return os.MkdirTemp("", "samecart-sim-")
}

// Run runs a plan in a bubble of its own: faults for as long as the plan says, then
// all is put right, and within a minute the service has to be as it should.
func Run(t *testing.T, plan Plan, how How) (res Result) {
	t.Helper()
	began := time.Now()
	res.Plan = plan
	root, err := os.MkdirTemp(how.Root, "run-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root) //nolint:errcheck // it goes with how.Root
	if how.Log != nil {
		how.Log = &locked{w: how.Log}
	}
	if how.Trace != nil && how.Log == nil {
		how.Trace = &locked{w: how.Trace}
	} else if how.Trace != nil {
		how.Trace = how.Log // one place for both
	}
	var w *world
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		if how.Log != nil {
			log = slog.New(slog.NewTextHandler(how.Log, nil))
		}
		start := time.Now()
		var err error
		if w, err = newWorld(plan, root, log); err != nil {
			t.Fatal(err)
		}
		if how.Trace != nil {
			w.trace.to = how.Trace
		}
		if err := w.run(); err != nil {
			w.violated(check.Violation{Check: "run", Text: err.Error()})
		}
		w.totals.Virtual = time.Since(start)
	})
	res.Violations, res.Trace, res.Totals = w.violations(), w.trace.String(), w.totals
	w.totals.Runs, w.totals.Real, w.totals.Found = 1, time.Since(began), len(res.Violations)
	if plan.Overlap() {
		w.totals.Overlap = 1
	}
	w.totals.Net = w.net.Stats()
	return res
}

func (w *world) run() (err error) {
	defer w.close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := w.startAll(ctx); err != nil {
		return err
	}
	if err := w.setRule(ctx); err != nil {
		return err
	}
	var all []*shoppers
	defer func() {
		for _, s := range all {
			s.close()
		}
	}()
	var clients, writers sync.WaitGroup
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	for r := range w.plan.Shape.Regions {
		s, err := w.shoppersNear(regionNames[r], uint64(r))
		if err != nil {
			return err
		}
		all = append(all, s)
		clients.Go(func() { _ = s.client.Run(ctx) }) // it ends with its client
	}
	for i := range w.plan.Writers {
		wr := all[i%len(all)].writer(i)
		writers.Go(func() { wr.run(writing) })
	}
	for i := range w.plan.Guests {
		g := all[i%len(all)].guest(w.plan.Writers + i)
		writers.Go(func() { g.run(writing) })
	}
	n := w.newNemesis()
	n.run()
	if left := w.plan.Safety - w.now(); left > 0 {
		time.Sleep(left)
	}
	healed := w.now()
	w.trace.add(healed, "healed")
	// Liveness: shoppers go on for a while, then all comes to rest.
	if err := w.await(ctx, 30*time.Second, w.ready); err != nil {
		w.violated(check.Violation{Check: "liveness", Text: "the regions do not serve after all was put right: " + err.Error()})
	}
	w.totals.evaluated("leader", 1)
	time.Sleep(5 * time.Second)
	stopWriting()
	writers.Wait()
	for _, s := range all {
		s.late.Wait()
	}
	if err := w.await(ctx, time.Minute, w.equal); err != nil {
		w.violated(check.Violation{Check: "liveness", Text: "not equal after all was put right: " + err.Error()})
	}
	w.totals.evaluated("equal", 1)
	restored := w.totals.passed(store.StepPointed)
	time.Sleep(20 * time.Second)
	if again := w.totals.passed(store.StepPointed); again > restored {
		w.violated(check.Violation{Check: "snapshot loop", Text: fmt.Sprintf("%d snapshots were restored after all was equal", again-restored)})
	}
	w.totals.evaluated("snapshot loop", 1)
	w.judge(ctx)
	n.end()
	w.rebuild(ctx)
	cancel()
	for _, s := range all {
		s.close()
	}
	all = nil
	clients.Wait()
	return nil
}

// equal returns nil when all nodes of a shard have applied the same, and hold the
// same, and all regions hold the same.
func (w *world) equal(ctx context.Context) error {
	var first [][16]byte
	for r := range w.plan.Shape.Regions {
		var applied string
		for i := range w.plan.Shape.Nodes {
			name := nodeName(regionNames[r], i)
			p := w.nodes[name].running()
			if p == nil {
				return fmt.Errorf("%s is down", name)
			}
			at, digests, err := p.content(w.plan.Shape.Shards)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if applied == "" {
				applied = at
			}
			if at != applied {
				return fmt.Errorf("%s has applied %s, another node %s", name, at, applied)
			}
			if first == nil {
				first = digests
			}
			if !slices.Equal(first, digests) {
				return fmt.Errorf("%s differs from others", name)
			}
		}
	}
	return ctx.Err()
}

// rebuild takes a node's database away: what its log and snapshots give must be what
// the others have.
func (w *world) rebuild(ctx context.Context) {
	n := w.nodes[w.names[w.upTo(len(w.names))]]
	n.halt()
	n.mu.Lock()
	dir := n.dir
	n.mu.Unlock()
	err := os.RemoveAll(filepath.Join(dir, "badger"))
	if err == nil {
		err = n.start()
	}
	if err == nil {
		err = w.await(ctx, time.Minute, w.equal)
	}
	if err != nil {
		w.violated(check.Violation{Check: "replay of the log", Text: fmt.Sprintf("%s without its database: %v", n.name, err)})
	}
	w.totals.evaluated("replay of the log", 1)
}

// content is what a process has applied of each shard, and the digests of all slots.
func (p *process) content(shards uint32) (applied string, digests [][16]byte, err error) {
	for id := range shards {
		s, ok := p.member.Node.Shard(id)
		if !ok {
			return "", nil, errors.New("it does not run the shard yet")
		}
		lo, hi := s.SlotRange()
		d, err := s.Digests(lo, hi)
		if err != nil {
			return "", nil, err
		}
		applied += fmt.Sprintf("%d ", s.Marker().Applied)
		for _, one := range d {
			digests = append(digests, [16]byte(one))
		}
	}
	return applied, digests, nil
}

// judge holds what was seen, and what there is, against what was promised.
func (w *world) judge(ctx context.Context) {
	ops := w.hist.Ops()
	final := make(map[string]map[string]check.Item)
	carts := make(map[string]bool)
	for cart := range w.plan.Carts {
		carts[cartOf(cart)] = true
	}
	for _, o := range ops {
		carts[o.Cart] = true
	}
	var dots check.Dots
	for r := range w.plan.Shape.Regions {
		region := regionNames[r]
		p := w.anyOf(region)
		if p == nil {
			w.violated(check.Violation{Check: "content", Text: region + ": " + errNobody.Error()})
			continue
		}
		for _, id := range slices.Sorted(maps.Keys(carts)) {
			s, lines, err := p.whole(ctx, id)
			if err != nil {
				w.violated(check.Violation{Check: "content", Text: fmt.Sprintf("read %s in %s: %v", id, region, err)})
				continue
			}
			v, n := dots.See(region, id, s)
			w.totals.evaluated("dots", n)
			w.violated(v...)
			w.violated(bounded(region, id, s, w.plan)...)
			w.totals.evaluated("bounded context", 1)
			if was, ok := final[id]; ok && !maps.Equal(was, lines) {
				w.violated(check.Violation{Check: "equal", Text: fmt.Sprintf("%s shows %v in %s, and %v elsewhere", id, lines, region, was)})
			}
			final[id] = lines
			w.trace.add(w.now(), "final %s %s %v %v", region, id, lines, s.Cart.Context)
		}
	}
	v, n := check.Content(ops, final, w.plan.Rule)
	w.violated(v...)
	w.totals.evaluated("content", n)
	v, n = check.Sessions(ops, w.plan.Rule)
	w.violated(v...)
	w.totals.evaluated("session", n)
	if w.plan.Shape.Regions == 1 {
		v, n = check.Linearizable(ops, 5*time.Second)
		w.violated(v...)
		w.totals.evaluated("linear", n)
	}
}

// whole reads a cart from a region.
func (p *process) whole(ctx context.Context, cart string) (s crdt.State, lines map[string]check.Item, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	states, err := p.member.Node.States(ctx, []string{cart})
	if err != nil {
		return s, nil, err
	}
	lines = make(map[string]check.Item)
	s.Cart = &crdt.Cart{}
	if states[0] == nil {
		return s, lines, nil
	}
	if s, err = crdt.DecodeState(states[0]); err != nil {
		return s, nil, err
	}
	for key, carried := range s.Cart.Visible() {
		lines[key.SKU] = check.Item{
			N: uint64(carried.Quantity), Saved: carried.Placement == crdt.Saved, Note: crdt.Pairs(carried.Attributes.Pairs)[noteName],
		}
	}
	return s, lines, nil
}

// setRule sets the shop's rule for merges, and waits until all regions have it.
func (w *world) setRule(ctx context.Context) error {
	if w.plan.Rule == check.Max {
		return nil
	}
	if err := w.anyOf(regionNames[0]).member.Node.SetSetting(ctx, region.SettingMergeRule, string(w.plan.Rule)); err != nil {
		return err
	}
	return w.await(ctx, time.Minute, func(ctx context.Context) error {
		for _, name := range w.names {
			rule, err := w.nodes[name].running().member.Node.MergeRule(ctx)
			if err == nil && rule.String() != string(w.plan.Rule) {
				err = fmt.Errorf("rule %v", rule)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	})
}

// bounded checks that a cart's context has one entry a region and incarnation, for
// its own edits and for those of each guest, and no exceptions once all is delivered.
func bounded(where, cart string, s crdt.State, plan Plan) (out []check.Violation) {
	replicas := make(map[string]int)
	for _, r := range s.Cart.Context.Replicas() {
		replicas[r.Lineage]++
	}
	for lineage, n := range replicas {
		if n > plan.Shape.Regions {
			out = append(out, check.Violation{Check: "bounded", Text: fmt.Sprintf("%s has %s with %d replicas of lineage %q, of %d regions", where, cart, n, lineage, plan.Shape.Regions)})
		}
	}
	if n := s.Cart.Context.Exceptions(); n > 0 {
		out = append(out, check.Violation{Check: "bounded", Text: fmt.Sprintf("%s has %s with %d exceptions after all was delivered", where, cart, n)})
	}
	return out
}

// locked lets several write to one writer.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
