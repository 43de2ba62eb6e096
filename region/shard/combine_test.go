package shard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

func enqueue(s *Shard, ctx context.Context, cmd *regionv1.Command) *proposal {
	p := &proposal{ctx: ctx, cmd: cmd, size: 100, done: make(chan result, 1)}
	s.queue <- p
	return p
}

// leadWithoutCombiner makes a member that leads but takes nothing from its
// queue; it ends with the test.
func leadWithoutCombiner(t *testing.T, with func(*Config)) *Shard {
	t.Helper()
	m := startAlone(t, start{noRun: true, with: with})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); m.shard.followLeadership(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	within(t, 5*time.Second, "leads", m.shard.Leads)
	return m.shard
}

// runCombiner runs the combiner until the returned stop.
func runCombiner(s *Shard) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.combine(ctx) }()
	return func() { cancel(); <-done }
}

func TestGather(t *testing.T) {
	bg := context.Background()
	gone, cancel := context.WithCancel(bg)
	cancel()
	s := &Shard{cfg: Config{EntryBytesMax: 350}, queue: make(chan *proposal, 2000)}
	take := func() (batch []*proposal, rest *proposal) { return s.gather(<-s.queue) }

	var in []*proposal
	for range 7 {
		in = append(in, enqueue(s, bg, nil))
	}
	batch, rest := take()
	if len(batch) != 3 || rest != in[3] || batch[0] != in[0] || batch[2] != in[2] {
		t.Fatalf("batch of %d, rest %p", len(batch), rest)
	}
	if batch, rest = s.gather(rest); len(batch) != 3 || batch[0] != in[3] || rest != in[6] {
		t.Fatalf("second batch of %d", len(batch))
	}
	if batch, rest = s.gather(rest); len(batch) != 1 || rest != nil {
		t.Fatalf("last batch of %d", len(batch))
	}
	// A command as large as an entry goes alone.
	p := enqueue(s, bg, nil)
	p.size = 350
	enqueue(s, bg, nil)
	if batch, rest = take(); len(batch) != 1 || rest == nil {
		t.Fatalf("batch of %d, rest %v", len(batch), rest)
	}
	// Callers that have gone are dropped, and take no room.
	enqueue(s, gone, nil)
	p = enqueue(s, bg, nil)
	enqueue(s, gone, nil)
	if batch, rest = take(); len(batch) != 1 || batch[0] != p || rest != nil {
		t.Fatalf("batch of %d, rest %v", len(batch), rest)
	}
	enqueue(s, gone, nil)
	if batch, rest = take(); len(batch) != 0 || rest != nil {
		t.Fatalf("batch of %d, rest %v", len(batch), rest)
	}
	// The number of commands is bounded too.
	s.cfg.EntryBytesMax = 1 << 30
	for range commandsMax + 3 {
		enqueue(s, bg, nil)
	}
	if batch, rest = take(); len(batch) != commandsMax || rest != nil {
		t.Fatalf("batch of %d, rest %v", len(batch), rest)
	}
	if batch, rest = take(); len(batch) != 3 || rest != nil {
		t.Fatalf("batch of %d, rest %v", len(batch), rest)
	}
}

func TestQueueBoundsAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := leadWithoutCombiner(t, func(c *Config) { c.QueueMax, c.EntryBytesMax = 40, 2000 })
		large := addCommand("c", strings.Repeat("x", 3000), 1, 0)
		if _, err := s.Propose(t.Context(), large); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "2000") {
			t.Fatalf("a large command: %v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		var proposals []*proposal
		for i := range 39 {
			ctx := t.Context()
			q := uint32(i + 1)
			if i%3 == 2 {
				ctx = gone
			}
			cmd := editCommand(edit("c", set("s", "a", q)))
			if i == 0 {
				cmd = editCommand(edit("c", add("s", "a", q)))
			}
			proposals = append(proposals, enqueue(s, ctx, cmd))
		}
		unknown := make(chan error)
		go func() {
			_, err := s.Propose(gone, addCommand("gone", "x", 1, 0))
			unknown <- err
		}()
		synctest.Wait()
		if _, err := s.Propose(t.Context(), addCommand("c", "x", 1, 0)); !errors.Is(err, ErrOverloaded) {
			t.Fatalf("a full queue: %v", err)
		}
		cancel()
		if err := <-unknown; !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, context.Canceled) {
			t.Fatalf("a caller that went: %v", err)
		}
		defer runCombiner(s)()
		for i, p := range proposals {
			if i%3 == 2 {
				continue
			}
			r := <-p.done
			if r.err != nil || r.outcome.Lines[0].Quantity != uint32(i+1) {
				t.Fatalf("proposal %d: %v, %v", i, r.outcome, r.err)
			}
		}
		if got := s.LastSeq(); got != 26 {
			t.Fatalf("%d writes, want 26: cancelled callers must be dropped", got)
		}
		if r, err := s.Local("gone"); r != nil || err != nil {
			t.Fatalf("record of a dropped command %v, %v", r, err)
		}
		rows := s.fsm.current()
		all, err := rows.Rows(0, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		key := crdt.LineKey{Seller: "s", SKU: "a"}
		last := uint32(0)
		for _, row := range all { // in the order in which they were proposed
			q := row.Delta.Fragment().Find(key).Visible().Quantity
			if q <= last {
				t.Fatalf("quantity %d after %d", q, last)
			}
			last = q
		}
	})
}

// However the shard stops, everybody who waits gets an answer.
func TestShutdownAnswersEverybody(t *testing.T) {
	for round := range 10 {
		synctest.Test(t, func(t *testing.T) {
			m := startAlone(t, start{})
			var wg sync.WaitGroup
			var acks atomic.Int64
			enough := make(chan struct{})
			for i := range 50 {
				wg.Go(func() {
					for {
						_, err := m.shard.Propose(context.Background(), addCommand(fmt.Sprint("c", i), "a", 1, 0))
						if errors.Is(err, ErrNotLeader) {
							return
						}
						if err != nil {
							t.Errorf("propose: %v", err)
							return
						}
						if acks.Add(1) == int64(1+40*round) {
							close(enough)
						}
					}
				})
			}
			<-enough
			m.stop()
			wg.Wait() // the bubble fails when one of them waits for ever
		})
	}
}

// A command that comes when the combiner has just stopped, while the shard
// does not know yet that it no longer leads, is answered too.
func TestProposeAfterTheCombinerStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := leadWithoutCombiner(t, nil)
		early := enqueue(s, t.Context(), addCommand("c", "a", 1, 0))
		runCombiner(s)()
		select {
		case r := <-early.done:
			if r.err != nil && !errors.Is(r.err, ErrNotLeader) {
				t.Fatalf("the one before: %v", r.err)
			}
		default: // it waits in Propose, which sees the stop; see below
		}
		if !s.Leads() {
			t.Fatal("the shard knows already")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := s.Propose(ctx, addCommand("c", "b", 1, 0)); !errors.Is(err, ErrNotLeader) {
			t.Fatalf("propose: %v", err)
		}
	})
}

// What cannot be applied would end every member, and again at each start: it
// is refused before it is in the log.
func TestMalformedCommandsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Two shards: some carts are not this one's.
		m := startAlone(t, start{with: func(c *Config) { c.Slots = NewSlots(2) }})
		s := m.shard
		ids := map[uint32]string{}
		for i := range 50 {
			id := fmt.Sprint("cart-", i)
			ids[s.cfg.Slots.Shard(s.cfg.Slots.Of(id))] = id
		}
		mine, other := ids[0], ids[1]
		c := (&crdt.Cart{}).Add(crdt.Writer{Replica: crdt.Replica{Region: 2}}, crdt.LineKey{SKU: "a"}, 1, crdt.Offer{Currency: "USD"}, false)
		row := func(id string) crdt.Row { return crdt.Row{Seq: 1, Last: 1, CartID: id, Delta: c} }
		state := crdt.State{Cart: c.Fragment()}
		st := crdt.Stream{Region: 2}
		badRow := joinRows(st, 0, 1, row(mine))
		badRow.GetJoinRows().Rows[0] = badRow.GetJoinRows().Rows[0][:5]
		badCart := joinCart(mine, state)
		badCart.GetJoinCart().State = []byte("no cart")
		shortOp := edit(mine, add("s", "a", 1))
		shortOp.OpId = []byte("short")
		shortMatch := edit(mine, add("s", "a", 1))
		shortMatch.IfMatch = []byte("short")
		strange := joinGuest(mine, "guest:g", state)
		strange.GetJoinGuest().Rule = 9
		before := s.Marker()
		for name, cmd := range map[string]*regionv1.Command{
			"nil":                    nil,
			"nothing":                {},
			"unknown kind":           editCommand(edit(mine, &regionv1.Change{Kind: 99})),
			"no kind":                editCommand(edit(mine, add("s", "a", 1), &regionv1.Change{})),
			"no change":              editCommand(edit(mine, nil)),
			"short op id":            editCommand(shortOp),
			"short if-match":         editCommand(shortMatch),
			"edit elsewhere":         editCommand(edit(other, add("s", "a", 1))),
			"cut row":                badRow,
			"row elsewhere":          joinRows(st, 0, 1, row(other)),
			"cut cart":               badCart,
			"cart elsewhere":         joinCart(other, state),
			"region out of range":    {Command: &regionv1.Command_MoveCursor{MoveCursor: &regionv1.MoveCursor{RegionId: 1 << 16}}},
			"origin out of range":    joinRows(st, 0, 1),
			"setting without a name": editCommand(edit(mine, &regionv1.Change{Kind: regionv1.Change_KIND_SETTING})),
			"close elsewhere":        closeGuest(other, "cart:u"),
			"close for nobody":       closeGuest(mine, ""),
			"close for itself":       closeGuest(mine, mine),
			"guest elsewhere":        joinGuest(other, "guest:g", state),
			"guest without a name":   joinGuest(mine, "", state),
			"guest of itself":        joinGuest(mine, mine, state),
			"cut guest":              {Command: &regionv1.Command_JoinGuest{JoinGuest: &regionv1.JoinGuest{CartId: mine, GuestCartId: "guest:g", State: []byte("no cart")}}},
			"guest with other dots":  {Command: &regionv1.Command_JoinGuest{JoinGuest: &regionv1.JoinGuest{CartId: mine, GuestCartId: "guest:g", State: state.Encode(nil)}}},
			"rule of the future":     strange,
			"forwarded elsewhere":    forwarded(other, store.Digest{}),
			"forwarded without what": {Command: &regionv1.Command_GuestForwarded{GuestForwarded: &regionv1.GuestForwarded{GuestCartId: mine}}},
			"init, which is no ones": {Command: &regionv1.Command_Init{Init: &regionv1.Init{}}},
		} {
			if name == "origin out of range" {
				cmd.GetJoinRows().RegionId = 1 << 16
			}
			if out, err := s.Propose(t.Context(), cmd); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: %v, %v", name, out, err)
			}
		}
		if got := s.Marker(); got != before {
			t.Errorf("marker %+v, was %+v", got, before)
		}
		for _, cmd := range []*regionv1.Command{editCommand(edit(mine, add("s", "a", 1))), joinRows(st, 0, 1, row(mine)), joinCart(mine, state), joinGuest(mine, "guest:g", state), closeGuest(mine, "cart:u")} {
			propose(t, s, cmd)
		}
	})
}

func TestErrors(t *testing.T) {
	s := &Shard{cfg: Config{ID: 7, Node: "n1"}}
	if err := s.applyError(raft.ErrEnqueueTimeout); !errors.Is(err, ErrOverloaded) {
		t.Errorf("enqueue timeout: %v", err)
	}
	if err := s.applyError(raft.ErrLeadershipLost); !errors.Is(err, ErrOutcomeUnknown) || !errors.Is(err, raft.ErrLeadershipLost) {
		t.Errorf("leadership lost: %v", err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{&NotLeaderError{Shard: 7}, "shard 7 has no known leader"},
		{&NotLeaderError{Shard: 7, Leader: "eu/2"}, "shard 7 is led by eu/2"},
	} {
		if !errors.Is(c.err, ErrNotLeader) || errors.Is(c.err, ErrOverloaded) || c.err.Error() != c.want {
			t.Errorf("got %q, want %q", c.err, c.want)
		}
	}
}

func propose(t *testing.T, s *Shard, cmd *regionv1.Command) *regionv1.Outcome {
	t.Helper()
	out, err := s.Propose(t.Context(), cmd)
	if err != nil || out.Code != regionv1.Outcome_CODE_OK {
		t.Fatalf("propose: %v, %v", out, err)
	}
	return out
}

// Rows that every peer has are forgotten, and so are the oldest when a peer
// is away for long.
func TestHousekeepingTrims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startAlone(t, start{with: func(c *Config) { c.RetainRows = 8000 }})
		s := m.shard
		write := func(n int) {
			for range n {
				propose(t, s, addCommand("c", "a", 1, 0))
			}
		}
		write(100)
		s.Acked(0, 40, 60)
		s.Acked(0, 30, 50) // never back
		time.Sleep(21 * time.Second)
		if got := s.Marker().Trimmed; got != 40 {
			t.Fatalf("trimmed to %d, want 40", got)
		}
		if iv, ok, err := s.ReadAfter(t.Context(), 40, 1<<20); err != nil || !ok || len(iv.Rows) != 60 || iv.Lo != 40 || iv.Hi != 100 {
			t.Fatalf("interval (%d,%d] of %d rows, %v, %v", iv.Lo, iv.Hi, len(iv.Rows), ok, err)
		}
		if _, ok, err := s.ReadAfter(t.Context(), 39, 1<<20); ok || err != nil {
			t.Fatalf("the log reaches back to 39: %v, %v", ok, err)
		}
		s.Acked(0, 1<<40, 1<<40) // more than there is
		time.Sleep(21 * time.Second)
		if got := s.Marker().Trimmed; got != 100 {
			t.Fatalf("trimmed to %d, want 100", got)
		}
		// A backlog goes as fast as the log takes it, not a batch a second.
		s.ackedMu.Lock()
		s.acked = acked{}
		s.ackedMu.Unlock()
		write(9000)
		s.Acked(0, 8500, 8500)
		time.Sleep(2 * time.Second)
		if got := s.Marker().Trimmed; got < 8100 {
			t.Fatalf("trimmed to %d within two seconds, want 8100", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		m := startAlone(t, start{with: func(c *Config) { c.RetainRows = 50 }})
		for range 170 {
			propose(t, m.shard, addCommand("c", "a", 1, 0))
		}
		// What no other region has stays, however much that is.
		time.Sleep(21 * time.Second)
		if got := m.shard.Marker(); got.Trimmed != 0 || got.Seq != 170 {
			t.Fatalf("marker %+v, want all rows", got)
		}
		m.shard.Acked(0, 0, 170)
		time.Sleep(21 * time.Second)
		if got := m.shard.Marker(); got.Trimmed != 120 || got.Seq != 170 {
			t.Fatalf("marker %+v, want the last 50 rows", got)
		}
	})
}

func TestHousekeepingExpiresOps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startAlone(t, start{with: func(c *Config) { c.Limits.OpLife = time.Hour }})
		s := m.shard
		const ops = 3000
		for i := range ops {
			propose(t, s, editCommand(withOp(i+1, edit("c", add("s", "a", 1)))))
		}
		known := func() int {
			_, got, err := s.fsm.current().RecordAndOps(s.fsm.slots.Of("c"), "c")
			if err != nil {
				t.Fatal(err)
			}
			return len(got)
		}
		time.Sleep(59 * time.Minute)
		if got := known(); got != ops {
			t.Fatalf("%d ops are known after 59 minutes", got)
		}
		time.Sleep(3 * time.Minute) // a region must forget as fast as it learns
		if got := known(); got != 0 {
			t.Fatalf("%d ops are known after 62 minutes", got)
		}
		if out := propose(t, s, editCommand(withOp(1, edit("c", add("s", "a", 1))))); out.Replayed {
			t.Fatalf("outcome %v", out)
		}
	})
}
