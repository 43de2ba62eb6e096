package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Drill is one rehearsal: what is broken, and what must come of it.
type Drill struct {
	Name    string
	Does    string // what is broken
	Expects string // what shoppers and regions should show meanwhile
	Risks   string // what it may do to an addressed cluster
	// Local says why it needs a cluster of its own; "": it does not.
	Local string
	// ShoppersWithin bounds how long any shopper may wait for an answer, and
	// RecoversWithin how long it takes, from the end of the fault, until all is
	// as before. They are for a busy machine of two cores: what is usual is in
	// Expects.
	ShoppersWithin, RecoversWithin time.Duration

	// homes says where shoppers are near to; nil: to all regions in turn.
	homes func(s scene) []string
	// able says what is missing on this machine.
	able func(Config) error
	// set prepares the drill's own cluster before it is started.
	set func(ctx context.Context, s scene, l *local) error
	// steps are what it does.
	steps func(s scene) []step
}

// scene is where a drill takes place.
type scene struct {
	regions []string // the one that is broken first
	hold    time.Duration
	own     bool // the cluster is the drill's
}

// victim is the region that is broken, other and third are those beside it.
func (s scene) victim() string { return s.regions[0] }
func (s scene) other() string  { return s.regions[1] }
func (s scene) third() string  { return s.regions[min(2, len(s.regions)-1)] }

// step is one thing that a drill does.
type step struct {
	after time.Duration // pause before it
	say   string
	open  string // label of the fault that is in force from now on
	close string // label of one that is over when the step begins
	late  bool   // or rather when it is done
	long  bool   // it waits for the cluster, as long as that takes
	do    func(ctx context.Context, r *run) error
}

// Line is one line of a plan.
type Line struct {
	At    time.Duration
	About bool // steps before it wait for the cluster
	Text  string
}

const (
	warmUp = 4 * time.Second // what is first is slow
	after  = 4 * time.Second // the load goes on so long when all is as before
)

// Plan returns what a drill would do, and touches nothing.
func (d Drill) Plan(cfg Config, regions []string) ([]Line, error) {
	own := cfg.Addr == ""
	if !own && d.Local != "" {
		return nil, d.onlyLocal()
	}
	if err := cfg.known(regions); err != nil {
		return nil, err
	}
	o, s := cfg.Options, cfg.scene(regions, own)
	where := "on " + strings.Join(regions, ", ") + ", as addressed"
	if own {
		where = fmt.Sprintf("start %s, %d nodes each and a gateway, on loopback", strings.Join(regions, ", "), localNodes)
	}
	homes := strings.Join(d.homesOf(s), ", ")
	out := []Line{{Text: where}, {Text: fmt.Sprintf("%d shoppers near %s make %g calls a second; each region is probed", o.Shoppers, homes, o.Rate)}}
	at, about := warmUp, false
	for _, st := range d.steps(s) {
		at += st.after
		out = append(out, Line{at, about, st.say})
		about = about || st.long
	}
	out = append(out,
		Line{at, true, fmt.Sprintf("heal whatever is left; wait until all is as before, at most %v", d.RecoversWithin)},
		Line{at + after, true, "stop the shoppers; compare all carts in all regions; judge every cart; report"})
	return out, nil
}

func (d Drill) homesOf(s scene) []string {
	if d.homes != nil {
		return d.homes(s)
	}
	return s.regions
}

// Find returns the drill of a name; its error names those there are.
func Find(name string) (Drill, error) {
	var names []string
	for _, d := range List() {
		if d.Name == name {
			return d, nil
		}
		names = append(names, d.Name)
	}
	return Drill{}, fmt.Errorf("drill %q is unknown: there are %s", name, strings.Join(names, ", "))
}

const (
	signals = "it sends signals to processes"
	proxies = "only the drill's own proxies between regions can do that"
)

// List returns the drills, simplest first.
func List() []Drill {
	return []Drill{
		{
			Name:           "leader-kill",
			Does:           "kills the node that leads a region's first shard (SIGKILL), and starts it again after the hold",
			Expects:        "the shard elects another leader in about 3 s; meanwhile other regions answer its shoppers, within a second",
			Risks:          "the region runs on two of three nodes during the hold: another loss there stops its edits",
			ShoppersWithin: 10 * time.Second, RecoversWithin: 45 * time.Second,
			steps: func(s scene) []step {
				label := "leader in " + s.victim() + " dead"
				var node string
				return []step{
					{say: "kill the node that leads the first shard of " + s.victim(), open: label, do: func(ctx context.Context, r *run) (err error) {
						if node, err = leader(ctx, r.cluster, s.victim()); err != nil {
							return err
						}
						r.note("the leader is " + node)
						return r.cluster.kill(ctx, node)
					}},
					{after: s.hold, say: "start it again", close: label, do: func(ctx context.Context, r *run) error { return r.cluster.start(ctx, node) }},
				}
			},
		},
		{
			Name:           "node-loss",
			Does:           "takes a node away with its disk, and starts it empty after the hold; on an addressed cluster the disk stays",
			Expects:        "no shopper waits for more than an election; the node comes back as a new member and catches up",
			Risks:          "as leader-kill; and the node's data directory is removed where the cluster is the drill's own",
			ShoppersWithin: 10 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				node, label := s.victim()+"/3", s.victim()+"/3 lost"
				return []step{
					{say: "kill node " + node + ", and remove its data where it is the drill's own", open: label, do: func(ctx context.Context, r *run) error {
						if err := r.cluster.kill(ctx, node); err != nil || r.own == nil {
							return err
						}
						return r.own.wipe(node)
					}},
					{after: s.hold, say: "start it again", close: label, do: func(ctx context.Context, r *run) error { return r.cluster.start(ctx, node) }},
				}
			},
		},
		{
			Name:           "minority-loss",
			Does:           "kills one node of every region at the same time, and starts them again after the hold",
			Expects:        "all regions go on; shards that were led there elect in about 3 s, everywhere at once",
			Risks:          "no region can lose another node during the hold",
			ShoppersWithin: 15 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				const label = "a node of each region dead"
				return []step{
					{say: "kill node 2 of every region", open: label, do: func(ctx context.Context, r *run) error {
						return each(s.regions, func(region string) error { return r.cluster.kill(ctx, region+"/2") })
					}},
					{after: s.hold, say: "start them again", close: label, do: func(ctx context.Context, r *run) error {
						return each(s.regions, func(region string) error { return r.cluster.start(ctx, region+"/2") })
					}},
				}
			},
		},
		{
			Name:           "region-loss",
			Does:           "kills all processes of a region at once (SIGKILL), and starts them again after the hold",
			Expects:        "its shoppers are answered by the next region within a second, marked stale where their last edits had not left; it comes back and catches up in seconds",
			Risks:          "the region's edits of the last round trip are not visible until it is back",
			ShoppersWithin: 15 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				label := s.victim() + " dead"
				return []step{
					{say: "kill region " + s.victim(), open: label, do: func(ctx context.Context, r *run) error { return r.cluster.killRegion(ctx, s.victim()) }},
					{after: s.hold, say: "start region " + s.victim(), close: label, do: func(ctx context.Context, r *run) error { return r.cluster.startRegion(ctx, s.victim()) }},
				}
			},
		},
		{
			Name:           "partition",
			Does:           "cuts the links from one region to all others; in a cluster of its own they fall silent, without a reset",
			Expects:        "nobody waits: every region takes edits and reads; lag grows until the links are back, and is gone within seconds",
			Risks:          "regions do not see each other's edits during the hold",
			ShoppersWithin: 10 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				label := s.victim() + " cut off"
				return []step{
					{say: "cut the links of " + s.victim() + " to all others", open: label, do: func(ctx context.Context, r *run) error {
						return each(s.regions[1:], func(other string) error { return r.cluster.cut(ctx, s.victim(), other) })
					}},
					{after: s.hold, say: "heal them", close: label, do: func(ctx context.Context, r *run) error {
						return each(s.regions[1:], func(other string) error { return r.cluster.mend(ctx, s.victim(), other) })
					}},
				}
			},
		},
		{
			Name:           "partial-partition",
			Does:           "cuts the link of two regions that both reach the third",
			Expects:        "nobody waits; after two seconds their edits go around through the third, and lag stays low",
			Risks:          "the third region carries their edits too",
			ShoppersWithin: 10 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				label := s.victim() + "–" + s.other() + " cut"
				return []step{
					{say: "cut the link " + s.victim() + "–" + s.other(), open: label, do: func(ctx context.Context, r *run) error { return r.cluster.cut(ctx, s.victim(), s.other()) }},
					{after: s.hold, say: "heal it", close: label, do: func(ctx context.Context, r *run) error { return r.cluster.mend(ctx, s.victim(), s.other()) }},
				}
			},
		},
		{
			Name:           "one-way",
			Does:           "swallows all that one region sends another, while the other direction is whole; then resets what is open, and refuses more",
			Expects:        "nobody waits; edits go around through the third region",
			Local:          proxies,
			ShoppersWithin: 10 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				silent, refused := s.victim()+"→"+s.other()+" swallowed", s.victim()+"–"+s.other()+" refused"
				there := way{s.victim(), s.other()}
				return []step{
					{say: "swallow what " + s.victim() + " sends " + s.other(), open: silent, do: func(_ context.Context, r *run) error {
						r.own.links.set(there, trouble{Mute: true})
						return nil
					}},
					{after: s.hold / 2, say: "reset and refuse connections instead", close: silent, open: refused, do: func(_ context.Context, r *run) error {
						r.own.links.set(there, trouble{Cut: true})
						return nil
					}},
					{after: s.hold / 2, say: "heal the link", close: refused, do: func(context.Context, *run) error { return nil }},
				}
			},
		},
		{
			Name:           "slow-link",
			Does:           "makes the link of two regions slow: 150 ms each way, and 64 kB/s in a cluster of its own",
			Expects:        "nobody waits; the lag of the two is some 300 ms instead of 20",
			Risks:          "edits reach the other side late",
			ShoppersWithin: 10 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				label := s.victim() + "–" + s.other() + " slow"
				return []step{
					{say: "slow the link " + s.victim() + "–" + s.other(), open: label, do: func(ctx context.Context, r *run) error {
						return r.cluster.slow(ctx, s.victim(), s.other(), 150*time.Millisecond, 64_000)
					}},
					{after: s.hold, say: "heal it", close: label, do: func(ctx context.Context, r *run) error { return r.cluster.mend(ctx, s.victim(), s.other()) }},
				}
			},
		},
		redisLoss(),
		fullDisk(),
		{
			Name:           "clock-step",
			Does:           "sets the clock of the node that leads a region's first shard five minutes ahead, then five minutes behind",
			Expects:        "nobody waits, and no edit is lost: which write counts is no matter of clocks",
			Risks:          "the times that carts show for edits of the hold are off; lag, which is the age of edits by their own times, shows as 0 for five minutes; op ids of that node's shards are forgotten five minutes early",
			ShoppersWithin: 10 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				const off = 5 * time.Minute
				ahead, behind := "a clock in "+s.victim()+" ahead", "behind"
				var node string
				set := func(to time.Duration) func(context.Context, *run) error {
					return func(ctx context.Context, r *run) error { return r.cluster.setClock(ctx, node, to) }
				}
				return []step{
					{say: fmt.Sprintf("set the clock of the node that leads the first shard of %s ahead by %v", s.victim(), off), open: ahead, do: func(ctx context.Context, r *run) (err error) {
						if node, err = leader(ctx, r.cluster, s.victim()); err != nil {
							return err
						}
						r.note("the leader is " + node)
						return set(off)(ctx, r)
					}},
					{after: s.hold / 2, say: fmt.Sprintf("set it behind by %v", off), close: ahead, open: behind, do: set(-off)},
					{after: s.hold / 2, say: "set it right", close: behind, do: set(0)},
				}
			},
		},
		{
			Name:           "rolling-restart",
			Does:           "ends each process with SIGTERM and starts it again, one after the other, in one region after the other",
			Expects:        "no shopper waits for more than an election; leaders hand over before they go",
			Local:          signals,
			ShoppersWithin: 10 * time.Second, RecoversWithin: time.Minute,
			steps: func(s scene) []step {
				return rolling(s, "restart", func(*run) {})
			},
		},
		{
			Name:           "rolling-upgrade",
			Does:           "starts the cluster with the binary of --from, then replaces one process after the other with the current one",
			Expects:        "as rolling-restart: old and new versions serve side by side",
			Local:          signals + ", and starts them from two binaries",
			ShoppersWithin: 10 * time.Second, RecoversWithin: time.Minute,
			able: func(c Config) error {
				if c.From == "" {
					return errors.New("rolling-upgrade needs the binary to begin with: give --from PATH")
				}
				return executable(c.From)
			},
			steps: func(s scene) []step {
				return rolling(s, "upgrade", func(r *run) { r.own.cartd = r.cfg.Cartd })
			},
		},
		{
			Name:           "thundering-return",
			Does:           "kills a region that all shoppers are near to, starts it again after the hold, and sends them all back to it at once, on new connections",
			Expects:        "the next region answers meanwhile; the herd is answered, and no edit of the time between is missing or unmarked",
			Risks:          "all load of the drill is on one region",
			ShoppersWithin: 15 * time.Second, RecoversWithin: time.Minute,
			homes: func(s scene) []string { return []string{s.victim()} },
			steps: func(s scene) []step {
				label := s.victim() + " dead"
				return []step{
					{say: "kill region " + s.victim(), open: label, do: func(ctx context.Context, r *run) error { return r.cluster.killRegion(ctx, s.victim()) }},
					{after: s.hold, say: "start region " + s.victim() + ", and wait until it takes edits", close: label, long: true, do: func(ctx context.Context, r *run) error {
						if err := r.cluster.startRegion(ctx, s.victim()); err != nil {
							return err
						}
						return poll(ctx, time.Minute, func(ctx context.Context) error { return answers200(ctx, r.cluster.base(s.victim())+"/readyz") })
					}},
					{say: "send all shoppers there at once", do: func(_ context.Context, r *run) error { return r.shoppers.rush(s.victim()) }},
					{after: s.hold / 2, say: "see how it goes", do: func(context.Context, *run) error { return nil }},
				}
			},
		},
	}
}

// each calls f for all at once.
func each(regions []string, f func(region string) error) error {
	errs := make(chan error, len(regions))
	for _, region := range regions {
		go func() { errs <- f(region) }()
	}
	var all []error
	for range regions {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// executable is nil for a file that can be run.
func executable(path string) error {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return fmt.Errorf("%s is no program: build one with `make build`", path)
	}
	return nil
}

// onPath is nil when a program is there.
func onPath(program, how string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("no %s on the PATH: %s", program, how)
	}
	return nil
}

// rotated returns the regions with the named one first.
func rotated(regions []string, first string) []string {
	i := slices.Index(regions, first)
	return slices.Concat(regions[i:], regions[:i])
}
