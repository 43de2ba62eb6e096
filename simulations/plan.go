package simulations

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/samecart/samecart/simulations/check"
	"github.com/samecart/samecart/simulations/disk"
)

// Shape is how large a simulated service is.
type Shape struct {
	Regions, Nodes int    // nodes of each region
	Shards         uint32 // of each region
}

// OneGroup is a region of three nodes and one shard; FullSize are three such
// regions, of two shards.
var (
	OneGroup = Shape{Regions: 1, Nodes: 3, Shards: 1}
	FullSize = Shape{Regions: 3, Nodes: 3, Shards: 2}
)

func (s Shape) String() string { return fmt.Sprintf("%dx%dx%d", s.Regions, s.Nodes, s.Shards) }

// regionNames are the regions of a simulation, by number from 1.
var regionNames = []string{"us-east", "eu-west", "ap-south"}

// Plan is all that a seed decides, but for what chance does while it runs: it can be
// printed, and cut down. Times count from the moment at which all regions serve.
type Plan struct {
	Seed  uint64
	Shape Shape

	Safety  time.Duration // faults anywhere
	Carts   int
	Writers int           // sessions, spread over carts and regions
	Think   time.Duration // from one call of a session to its next, on average
	Guests  int           // sessions of guests, spread over regions
	Rule    check.Rule    // for merges of guests' carts

	Latency time.Duration // one way, between regions; within one it is a fiftieth
	Jitter  time.Duration
	Loss    float64
	Double  float64 // share of mutations that arrive twice

	SnapshotAfter uint64
	Trailing      uint64
	Segment       int           // bytes of one file of a log
	Heartbeat     time.Duration // silence after which a leader is taken for lost
	Skew          time.Duration // the clocks of nodes are off by up to that

	Faults []Fault
}

// Fault is one thing that goes wrong, and is put right again.
type Fault struct {
	At, For time.Duration
	Kind    FaultKind
	A, B    string        // nodes or regions, by kind
	Step    string        // of a crash
	Size    time.Duration // by kind: of a clock's step, of a delay
}

// FaultKind is what goes wrong.
type FaultKind string

// The kinds of faults, and what A and B are.
const (
	Crash      FaultKind = "crash"       // node A's process is killed, and started again
	CrashAt    FaultKind = "crash at"    // the same, at the next durable step of a name
	PowerLoss  FaultKind = "power loss"  // node A's machine; what was not synced is torn
	Blackout   FaultKind = "blackout"    // the power of all of region A
	Restart    FaultKind = "restart"     // node A is stopped cleanly, and started again
	LostDisk   FaultKind = "lost disk"   // node A comes back with an empty directory
	BitFlip    FaultKind = "bit flip"    // in node A's log, while its machine is down
	Isolate    FaultKind = "isolate"     // node A from all others
	Deaf       FaultKind = "deaf"        // nothing gets to node A
	Mute       FaultKind = "mute"        // nothing gets from node A
	CutNodes   FaultKind = "cut nodes"   // A from B, of one region: the third is the bridge
	CutRegions FaultKind = "cut regions" // A from B
	OneWay     FaultKind = "one way"     // nothing gets from region A to B: its replies neither
	Alone      FaultKind = "alone"       // region A from all others
	Flapping   FaultKind = "flapping"    // regions A and B, cut and healed every few seconds
	SlowLink   FaultKind = "slow link"   // A to B: late, lossy, 1 Mbit/s
	SlowDisk   FaultKind = "slow disk"   // node A's syncs take Size longer
	FullDisk   FaultKind = "full disk"   // node A's
	SyncError  FaultKind = "sync error"  // node A's syncs fail, half of them
	ClockStep  FaultKind = "clock step"  // node A's jumps by Size, for good
	ClockStop  FaultKind = "clock stop"  // node A's stands still
	RegionLoss FaultKind = "region loss" // all processes of region A
)

func (f Fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%7.3fs  %-11s %s", f.At.Seconds(), f.Kind, f.A)
	if f.B != "" {
		fmt.Fprintf(&b, " | %s", f.B)
	}
	if f.Step != "" {
		fmt.Fprintf(&b, " %q", f.Step)
	}
	if f.Size != 0 {
		fmt.Fprintf(&b, " %v", f.Size)
	}
	fmt.Fprintf(&b, "  for %.3fs", f.For.Seconds())
	return b.String()
}

// String prints a plan, a fault a line.
func (p Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed=%d shape=%v safety=%v carts=%d writers=%d guests=%d rule=%s think=%v latency=%v jitter=%v loss=%.3f double=%.2f snapshot-after=%d trailing=%d segment=%d heartbeat=%v skew=%v\n",
		p.Seed, p.Shape, p.Safety, p.Carts, p.Writers, p.Guests, p.Rule, p.Think, p.Latency, p.Jitter, p.Loss, p.Double, p.SnapshotAfter, p.Trailing, p.Segment, p.Heartbeat, p.Skew)
	for _, f := range p.Faults {
		fmt.Fprintf(&b, "%v\n", f)
	}
	return b.String()
}

// Overlap reports whether two faults of the plan are in force at the same time.
func (p Plan) Overlap() bool {
	for i, f := range p.Faults {
		for _, g := range p.Faults[i+1:] {
			if g.At < f.At+f.For && f.At < g.At+g.For {
				return true
			}
		}
	}
	return false
}

// kinds are the faults of one region's nodes, wide those of several regions.
var (
	kinds = []FaultKind{
		Crash, Crash, CrashAt, CrashAt, CrashAt, PowerLoss, PowerLoss, Blackout, Restart, LostDisk, BitFlip,
		Isolate, Deaf, Mute, CutNodes, SlowDisk, FullDisk, SyncError, ClockStep, ClockStop,
	}
	wide = []FaultKind{CutRegions, CutRegions, OneWay, OneWay, Alone, Flapping, SlowLink, RegionLoss}
)

// diskFaults are those that only a disk with faults of its own has.
var diskFaults = []FaultKind{BitFlip, SlowDisk, FullDisk, SyncError}

// PlanOf is the plan of a seed. Where disks have no faults, those are left out of
// it: an exact replay has another plan than a native run of the same seed.
func PlanOf(seed uint64, shape Shape, safety time.Duration) Plan {
	rng := rand.New(rand.NewPCG(seed, uint64(shape.Regions)<<32|uint64(shape.Nodes)<<16|uint64(shape.Shards)))
	p := Plan{
		Seed: seed, Shape: shape, Safety: safety,
		Carts: 2 + rng.IntN(3), Writers: 2 + rng.IntN(4),
		Think:   time.Duration(5+rng.IntN(10)) * time.Second,
		Latency: time.Duration(10+rng.IntN(90)) * time.Millisecond,
		Jitter:  time.Duration(rng.IntN(20)) * time.Millisecond,
		Double:  rng.Float64() / 5, SnapshotAfter: uint64(16 << rng.IntN(5)),
		Heartbeat: time.Duration(2+rng.IntN(3)) * time.Second,
		Skew:      time.Duration(rng.IntN(2000)) * time.Millisecond,
	}
	p.Trailing, p.Segment = p.SnapshotAfter/2, 64<<10
	if rng.IntN(3) == 0 {
		p.Loss = rng.Float64() / 50
	}
	p.Writers *= shape.Regions
	p.Guests = shape.Regions + rng.IntN(2)
	p.Think += p.Think * time.Duration(p.Guests) / time.Duration(2*p.Writers) // about as many calls as without guests
	p.Rule = []check.Rule{check.Max, check.Max, check.Sum, check.Latest}[rng.IntN(4)]
	gap := safety / time.Duration(4+rng.IntN(12))
	for at := time.Duration(rng.Int64N(int64(gap))); at < safety; at += time.Duration(rng.Int64N(int64(2*gap)) + 1) {
		f := faultOf(rng, shape, at)
		p.Faults = append(p.Faults, f)
		for rng.IntN(5) < 2 { // one more, while it lasts
			p.Faults = append(p.Faults, faultOf(rng, shape, f.At+time.Duration(rng.Int64N(int64(f.For)))))
		}
	}
	if !disk.Faulty {
		p.Faults = slices.DeleteFunc(p.Faults, func(f Fault) bool { return slices.Contains(diskFaults, f.Kind) })
	}
	slices.SortStableFunc(p.Faults, func(a, b Fault) int { return int(a.At - b.At) })
	return p
}

// CrashPlanOf is a plan of crashes at durable steps: each node in turn is away for so
// long that it needs a snapshot, or is stopped, and crashes at the next step of a
// name that it comes to.
func CrashPlanOf(seed uint64, safety time.Duration) Plan {
	p := PlanOf(seed, OneGroup, safety)
	p.Think, p.Writers, p.SnapshotAfter, p.Trailing, p.Segment, p.Faults = time.Second, 6, 16, 4, 16<<10, nil
	rng := rand.New(rand.NewPCG(seed, 0x6372617368))
	turn := rng.IntN(len(crashSteps))
	const away, there = 14 * time.Second, 8 * time.Second
	for at := time.Duration(0); at+away+there < safety; at += away + there + time.Duration(rng.IntN(4000))*time.Millisecond {
		node := nodeName(regionNames[0], rng.IntN(p.Shape.Nodes))
		step := crashSteps[turn%len(crashSteps)]
		turn++
		before := Fault{At: at, For: away, Kind: Isolate, A: node}
		if strings.HasPrefix(step, "identity") {
			before.Kind = LostDisk // it gets a new one
		}
		p.Faults = append(p.Faults, before, Fault{At: at + away - time.Second, For: there, Kind: CrashAt, A: node, Step: step})
	}
	return p
}

func faultOf(rng *rand.Rand, shape Shape, at time.Duration) Fault {
	all := kinds
	if shape.Regions > 1 && rng.IntN(2) == 0 {
		all = wide
	}
	f := Fault{At: at, Kind: all[rng.IntN(len(all))], For: time.Duration(rng.Int64N(int64(30*time.Second))) + 500*time.Millisecond}
	regions := rng.Perm(shape.Regions)
	node := func(region, i int) string { return nodeName(regionNames[region], i) }
	nodes := rng.Perm(shape.Nodes)
	switch f.Kind {
	case Blackout, Alone, RegionLoss:
		f.A = regionNames[regions[0]]
	case CutRegions, OneWay, Flapping, SlowLink:
		f.A, f.B = regionNames[regions[0]], regionNames[regions[1]]
	case CutNodes:
		f.A, f.B = node(regions[0], nodes[0]), node(regions[0], nodes[1])
	default:
		f.A = node(regions[0], nodes[0])
	}
	switch f.Kind {
	case CrashAt:
		f.Step = crashSteps[rng.IntN(len(crashSteps))]
	case SlowDisk:
		f.Size = time.Duration(1<<rng.IntN(10)) * time.Millisecond
	case ClockStep:
		f.Size = time.Duration(rng.Int64N(int64(10*time.Minute))) - 5*time.Minute
	case SlowLink:
		f.Size = time.Duration(100+rng.IntN(200)) * time.Millisecond
	default: // nothing has a size
	}
	return f
}

func nodeName(region string, i int) string { return fmt.Sprintf("%s/%d", region, i+1) }
