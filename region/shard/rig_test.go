package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/store"
)

// fataler is what helpers need of a test: *testing.T, *testing.B, *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func openStore(t fataler, dir string, memTable int64) *store.Store {
	t.Helper()
	cfg := store.DefaultConfig(dir, slog.New(slog.DiscardHandler))
	cfg.MemTableBytes, cfg.MemTables = memTable, 2
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	return s
}

// epoch is the time of a rig's first entry.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// rig is an fsm without Raft: the test is the log.
type rig struct {
	t      fataler
	store  *store.Store
	shard  uint32
	region crdt.RegionID
	fsm    *fsm
	limits *regionv1.Limits
	index  uint64
	at     crdt.Timestamp

	published []string
	onPublish func(id string)
	fatal     error
}

// newRig opens the space of a region's shard, and applies the first entry
// when there is none yet.
func newRig(t fataler, s *store.Store, shard uint32, region crdt.RegionID) *rig {
	t.Helper()
	r := &rig{
		t: t, store: s, shard: shard, region: region, at: crdt.TimestampAt(epoch.UnixMilli()),
		limits: &regionv1.Limits{Lines: 5, Codes: 3, Quantity: 99, OpLifeMs: 24 * 3600 * 1000, UndoMs: 600_000},
	}
	r.open()
	if r.fsm.marker().Region == 0 {
		r.apply(&regionv1.Command{Command: &regionv1.Command_Init{Init: &regionv1.Init{RegionId: uint32(region), Shards: 1}}})
	}
	return r
}

// open makes the fsm as a process does at its start: from the database.
func (r *rig) open() {
	r.t.Helper()
	sp, err := r.store.Space(r.shard, 0, SlotCount)
	if err != nil {
		r.t.Fatalf("open space: %v", err)
	}
	r.fsm, err = newFSM(sp, NewSlots(1), 1<<20, func(id string, _ *store.Record, _ []byte) {
		r.published = append(r.published, id)
		if r.onPublish != nil {
			r.onPublish(id)
		}
	}, func(Applied) {}, func(uint32) {}, func(err error) { r.fatal = err })
	if err != nil {
		r.t.Fatalf("open fsm: %v", err)
	}
	r.index = r.fsm.marker().Applied
}

func (r *rig) entry(commands ...*regionv1.Command) *regionv1.Entry {
	return &regionv1.Entry{Level: formatLevel, At: uint64(r.at), Limits: r.limits, Commands: commands}
}

func (r *rig) log(commands ...*regionv1.Command) *raft.Log {
	r.t.Helper()
	data, err := marshal(r.entry(commands...))
	if err != nil {
		r.t.Fatalf("encode entry: %v", err)
	}
	r.index++
	return &raft.Log{Index: r.index, Type: raft.LogCommand, Data: data}
}

// apply applies one entry and returns its outcomes.
func (r *rig) apply(commands ...*regionv1.Command) []*regionv1.Outcome {
	r.t.Helper()
	a, ok := r.fsm.Apply(r.log(commands...)).(answer)
	if !ok || len(a) != len(commands) {
		r.t.Fatalf("answer %v for %d commands", a, len(commands))
	}
	return a
}

func (r *rig) do(e *regionv1.Edit) *regionv1.Outcome {
	r.t.Helper()
	return r.apply(editCommand(e))[0]
}

func (r *rig) state(id string) crdt.State {
	r.t.Helper()
	rec, err := r.fsm.record(id)
	if err != nil {
		r.t.Fatalf("read %q: %v", id, err)
	}
	return stateOf(rec)
}

// lines shows a cart as "seller/sku/options" → quantity.
func (r *rig) lines(id string) map[string]uint32 {
	r.t.Helper()
	return linesOf(r.state(id).Cart)
}

func linesOf(c *crdt.Cart) map[string]uint32 {
	out := make(map[string]uint32)
	for k, v := range c.Visible() {
		out[k.Seller+"/"+k.SKU+"/"+k.Options] = v.Quantity
	}
	return out
}

func (r *rig) rows(after uint64) []crdt.Row {
	r.t.Helper()
	rows, err := r.fsm.current().Rows(after, 1<<30)
	if err != nil {
		r.t.Fatalf("read rows: %v", err)
	}
	return rows
}

// content is everything that must be equal on all members.
func (r *rig) content() string {
	r.t.Helper()
	sums, err := r.fsm.current().Sums(0, SlotCount)
	if err != nil {
		r.t.Fatalf("read digests: %v", err)
	}
	snap := r.fsm.current().Snapshot()
	defer snap.Close()
	h := newHash()
	if _, err := snap.WriteTo(h); err != nil {
		r.t.Fatalf("write snapshot: %v", err)
	}
	return fmt.Sprintf("%+v %x %x", r.fsm.marker(), sumOfSums(sums), h.Sum64())
}

func sumOfSums(sums [][16]byte) (n uint64) {
	for i, s := range sums {
		n += uint64(i+1) * (binary.BigEndian.Uint64(s[:]) ^ binary.BigEndian.Uint64(s[8:]))
	}
	return n
}

func editCommand(e *regionv1.Edit) *regionv1.Command {
	return &regionv1.Command{Command: &regionv1.Command_Edit{Edit: e}}
}

// edit makes an edit of one cart.
func edit(id string, changes ...*regionv1.Change) *regionv1.Edit {
	return &regionv1.Edit{CartId: id, Changes: changes}
}

// withOp gives an edit an op id; its payload is its fingerprint.
func withOp(op int, e *regionv1.Edit) *regionv1.Edit {
	e.OpId = opID(op)
	h := newHash()
	for _, c := range e.Changes {
		_, _ = fmt.Fprint(h, c.Kind, c.Line.GetSku(), c.Quantity) // never fails
	}
	e.Fingerprint = h.Sum64()
	return e
}

func opID(op int) []byte {
	id := make([]byte, 16)
	binary.BigEndian.PutUint32(id, uint32(op)) // ids differ where the filter looks
	return id
}

func opKey(op int) crdt.OpID { return crdt.OpID(opID(op)) }

func add(seller, sku string, n uint32) *regionv1.Change {
	return &regionv1.Change{
		Kind: regionv1.Change_KIND_ADD, Quantity: n, Price: 2999, Currency: "USD",
		Line: &regionv1.LineKey{Seller: seller, Sku: sku},
	}
}

func set(seller, sku string, n uint32) *regionv1.Change {
	return &regionv1.Change{Kind: regionv1.Change_KIND_SET, Quantity: n, Line: &regionv1.LineKey{Seller: seller, Sku: sku}}
}

func remove(seller, sku string) *regionv1.Change {
	return &regionv1.Change{Kind: regionv1.Change_KIND_REMOVE, Line: &regionv1.LineKey{Seller: seller, Sku: sku}}
}

func clearAll() *regionv1.Change { return &regionv1.Change{Kind: regionv1.Change_KIND_CLEAR} }

func newHash() hash.Hash64 { return fnv.New64a() }

// tempStore opens a store that is closed when the test ends.
func tempStore(t testing.TB) *store.Store {
	t.Helper()
	s := openStore(t, t.TempDir(), 1<<20)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// crashed reports whether a recovered value is the end of a process that
// publish made; any other panic goes on.
func crashed(v any) bool {
	if v == nil {
		return false
	}
	if err, ok := v.(error); !ok || !errors.Is(err, errCrash) {
		panic(v)
	}
	return true
}
