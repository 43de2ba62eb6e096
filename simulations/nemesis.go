package simulations

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/simulations/check"
	"github.com/samecart/samecart/simulations/disk"
	"github.com/samecart/samecart/simulations/network"
)

// order is what a node's supervisor is to do with its process.
type order struct {
	kind FaultKind
	down time.Duration
	done chan struct{} // closed when the node runs again, or the order was skipped
}

// supervisor starts a node's process again whenever it has ended, as an
// operating system does, and ends it when told.
type supervisor struct {
	*node
	orders chan order
}

// nemesis brings about what a plan says.
type nemesis struct {
	world       *world
	supervisors map[string]*supervisor
	running     sync.WaitGroup
	stop        context.CancelFunc
}

func (w *world) newNemesis() *nemesis {
	n := &nemesis{world: w, supervisors: make(map[string]*supervisor)}
	var ctx context.Context
	ctx, n.stop = context.WithCancel(context.Background())
	for name, at := range w.nodes {
		s := &supervisor{at, make(chan order, 16)}
		n.supervisors[name] = s
		n.running.Go(func() { s.run(ctx) })
	}
	return n
}

// run follows the plan until all is put right again.
func (n *nemesis) run() {
	var all sync.WaitGroup
	for _, f := range n.world.plan.Faults {
		all.Go(func() {
			time.Sleep(f.At - n.world.now())
			n.bring(f)
		})
	}
	all.Wait()
}

// end stops the supervisors; the nodes go on.
func (n *nemesis) end() {
	n.stop()
	n.running.Wait()
}

// bring brings a fault about, and puts it right in the end.
func (n *nemesis) bring(f Fault) {
	w := n.world
	w.trace.add(w.now(), "fault %v", f)
	end := min(f.For, w.plan.Safety-f.At)
	switch f.Kind {
	case Crash, PowerLoss, Restart, LostDisk, BitFlip:
		n.order(f.A, f.Kind, end)
	case Blackout, RegionLoss:
		kind := Crash
		if f.Kind == Blackout {
			kind = PowerLoss
		}
		w.totals.fault(f.Kind)
		var all sync.WaitGroup
		for _, name := range w.names {
			if w.nodes[name].region == f.A {
				all.Go(func() { n.order(name, kind, end) })
			}
		}
		all.Wait()
	case CrashAt:
		w.nodes[f.A].arm(f.Step)
		time.Sleep(end)
		w.nodes[f.A].arm("")
	case Flapping:
		w.totals.fault(f.Kind)
		for until := w.now() + end; w.now() < until; {
			n.cut(f, true)
			time.Sleep(time.Duration(500+w.upTo(3000)) * time.Millisecond)
			n.cut(f, false)
			time.Sleep(time.Duration(500+w.upTo(3000)) * time.Millisecond)
		}
	default:
		w.totals.fault(f.Kind)
		n.cut(f, true)
		time.Sleep(end)
		n.cut(f, false)
	}
}

func (w *world) upTo(n int) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rng.IntN(n)
}

// cut brings about, or puts right, what is wrong with a link, a disk or a clock.
func (n *nemesis) cut(f Fault, on bool) {
	w := n.world
	both := func(a, b string, way network.Way) {
		w.set(a, b, way)
		w.set(b, a, way)
	}
	cut := network.Way{Cut: on}
	node := w.nodes[f.A]
	switch f.Kind {
	case Isolate:
		both(hostOf(f.A), "*", cut)
	case Deaf:
		w.set("*", hostOf(f.A), cut)
	case Mute:
		w.set(hostOf(f.A), "*", cut)
	case CutNodes:
		both(hostOf(f.A), hostOf(f.B), cut)
	case CutRegions, Flapping:
		both(f.A, f.B, cut)
	case OneWay:
		w.set(f.A, f.B, cut)
	case Alone:
		for r := range w.plan.Shape.Regions {
			if regionNames[r] != f.A {
				both(f.A, regionNames[r], cut)
			}
		}
	case SlowLink:
		way := network.Way{}
		if on {
			way = network.Way{Latency: f.Size, Loss: 0.05, Bandwidth: 125_000}
		}
		both(f.A, f.B, way)
	case SlowDisk, FullDisk, SyncError:
		faults := disk.Faults{}
		if on {
			faults = disk.Faults{Full: f.Kind == FullDisk, Slow: f.Size}
			if f.Kind == SyncError {
				faults.SyncError = 0.5
			}
		}
		node.disk.Set(faults)
	case ClockStep, ClockStop:
		node.turn(f, on)
	default:
		panic(fmt.Sprintf("simulations: fault %v", f))
	}
}

// turn does something to the node's clock.
func (n *node) turn(f Fault, on bool) {
	now := n.clock()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case f.Kind == ClockStep && on:
		n.offset += f.Size
	case f.Kind == ClockStop && on:
		n.stopped = now
	case f.Kind == ClockStop:
		n.stopped = time.Time{}
	}
}

// arm has the node crash at its next step of a name; "" disarms it.
func (n *node) arm(step string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.armed = step
}

// order has a supervisor do something, and waits until the node runs again.
func (n *nemesis) order(node string, kind FaultKind, down time.Duration) {
	o := order{kind, down, make(chan struct{})}
	n.supervisors[node].orders <- o
	<-o.done
}

// run keeps the node's process running until ctx ends.
func (s *supervisor) run(ctx context.Context) {
	for {
		s.mu.Lock()
		p := s.process
		s.mu.Unlock()
		var fatal chan struct{}
		if p != nil {
			fatal = p.fatal
		}
		select {
		case <-ctx.Done():
			return
		case <-s.crashed:
			s.world.totals.fault(CrashAt)
			s.bury(false)
			s.comeBack(ctx, time.Duration(s.world.upTo(5000))*time.Millisecond, false)
		case <-fatal:
			p.mu.Lock()
			why := p.failed
			p.mu.Unlock()
			s.world.totals.exited(whyOf(why))
			s.world.trace.add(s.world.now(), "exit %s: %v", s.name, why)
			s.bury(false)
			s.comeBack(ctx, time.Second, false)
		case o := <-s.orders:
			s.obey(ctx, o)
			close(o.done)
		}
	}
}

// whyOf is an error without what differs from run to run: what stands before the
// first path in it.
func whyOf(err error) string {
	why, _, _ := strings.Cut(err.Error(), "/")
	return strings.TrimRight(why, ` ":`)
}

// obey ends the process and starts it again.
func (s *supervisor) obey(ctx context.Context, o order) {
	loses := o.kind == LostDisk || o.kind == BitFlip
	if s.running() == nil || loses && !s.world.spare(s.node) {
		s.world.totals.skipped(o.kind)
		return
	}
	s.world.totals.fault(o.kind)
	switch o.kind {
	case Restart:
		s.halt()
	default:
		s.bury(o.kind == PowerLoss)
	}
	s.world.trace.add(s.world.now(), "down %s %s", s.name, o.kind)
	switch o.kind {
	case LostDisk:
		s.wipe()
	case BitFlip:
		s.mu.Lock()
		dir := s.dir
		s.mu.Unlock()
		if _, err := s.disk.FlipBits(dir, 1); err != nil {
			panic(fmt.Sprintf("simulations: flip a bit: %v", err))
		}
	default: // the disk is as it was
	}
	if loses {
		s.world.loses(s.region, false)
		defer s.world.loses(s.region, true)
	}
	s.comeBack(ctx, o.down, o.kind == BitFlip)
}

// wipe gives the node an empty directory.
func (s *supervisor) wipe() {
	s.mu.Lock()
	dir := s.dir
	s.mu.Unlock()
	if err := s.disk.Remove(dir); err != nil {
		panic(fmt.Sprintf("simulations: wipe a disk: %v", err))
	}
}

// comeBack starts the process after a while, again and again until it runs. A disk
// that was damaged may be refused; then the node comes back without it, as its
// operator is told to do.
func (s *supervisor) comeBack(ctx context.Context, after time.Duration, damaged bool) {
	select {
	case <-time.After(after):
	case <-ctx.Done():
	}
	for tries := 0; ; tries++ {
		err := s.start()
		if err == nil {
			s.world.trace.add(s.world.now(), "up %s", s.name)
			return
		}
		if errors.Is(err, region.ErrDamagedData) {
			if !damaged && !s.disk.Doubtful() {
				s.world.violated(check.Violation{Check: "start", Text: fmt.Sprintf("%s does not start again: %v", s.name, err)})
			}
			s.world.totals.exited("damaged data refused")
			s.wipe()
			damaged = true
			continue
		}
		if tries == 120 {
			s.world.violated(check.Violation{Check: "start", Text: fmt.Sprintf("%s does not start: %v", s.name, err)})
			return
		}
		s.world.totals.exited("start: " + whyOf(err))
		time.Sleep(time.Second)
	}
}

// spare reports whether the region can do without this node's disk: all its other
// nodes run and are hardly behind, and the last that lost its disk has been back for
// so long that it is a member again. What two of three disks held that are gone
// nobody can bring back.
func (w *world) spare(n *node) bool {
	const (
		behindMax = 50
		memberIn  = 30 * time.Second
	)
	w.mu.Lock()
	last, lost := w.lost[n.region]
	w.mu.Unlock()
	if lost && (last < 0 || w.now()-last < memberIn) {
		return false
	}
	least, most := uint64(1<<63), uint64(0)
	for _, name := range w.names {
		other := w.nodes[name]
		if other.region != n.region {
			continue
		}
		p := other.running()
		if p == nil {
			return false
		}
		p.mu.Lock()
		for id := range w.plan.Shape.Shards {
			least, most = min(least, p.applied[id]), max(most, p.applied[id])
		}
		if len(p.applied) < int(w.plan.Shape.Shards) {
			least = 0
		}
		p.mu.Unlock()
	}
	return most-least <= behindMax
}

// loses notes that a node of a region has lost its disk, or is back.
func (w *world) loses(region string, back bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost[region] = -1
	if back {
		w.lost[region] = w.now()
	}
}
