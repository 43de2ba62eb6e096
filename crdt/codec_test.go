package crdt_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/samecart/samecart/crdt"
	"github.com/samecart/samecart/crdt/crdttest"
	"pgregory.net/rapid"
)

// state, row and interval give the wire types the Equal that law checks ask
// for; they are compared by what they hold.
type (
	state    struct{ crdt.State }
	row      struct{ crdt.Row }
	interval struct{ crdt.Interval }
)

func (s state) Equal(o state) bool { return s.Cart.Equal(o.Cart) && slices.Equal(s.Ops, o.Ops) }

func (r row) Equal(o row) bool {
	return r.Seq == o.Seq && r.Last == o.Last && r.CartID == o.CartID && r.At == o.At &&
		r.Delta.Equal(o.Delta) && slices.Equal(r.Ops, o.Ops)
}

func (iv interval) Equal(o interval) bool {
	return iv.Stream == o.Stream && iv.Lo == o.Lo && iv.Hi == o.Hi &&
		slices.EqualFunc(iv.Rows, o.Rows, func(a, b crdt.Row) bool { return row{a}.Equal(row{b}) })
}

// codec is one type's two functions, the value hidden behind its bytes.
type codec struct {
	name string
	// again decodes b, encodes what it got, and checks that the bytes decode
	// to an equal value.
	again func(t crdttest.T, b []byte) ([]byte, error)
}

func codecOf[V crdttest.Lattice[V]](name string, encode func(V) []byte, decode func([]byte) (V, error)) codec {
	return codec{name, func(t crdttest.T, b []byte) ([]byte, error) {
		t.Helper()
		v, err := decode(b)
		if err != nil {
			return nil, err
		}
		crdttest.RoundTrip(t, encode, decode, v)
		return encode(v), nil
	}}
}

var codecs = map[string]codec{
	"cart": codecOf("cart", encodeCart, crdt.DecodeCart),
	"context": codecOf("context", func(cc crdt.CausalContext) []byte { return cc.Encode(nil) },
		crdt.DecodeContext),
	"delta": codecOf("delta", func(d crdt.Delta) []byte { return d.Encode(nil) }, crdt.DecodeDelta),
	"state": codecOf("state", func(s state) []byte { return s.Encode(nil) },
		func(b []byte) (state, error) { s, err := crdt.DecodeState(b); return state{s}, err }),
	"row": codecOf("row", func(r row) []byte { return r.Encode(nil) },
		func(b []byte) (row, error) { r, err := crdt.DecodeRow(b); return row{r}, err }),
	"interval": codecOf("interval", func(iv interval) []byte { return iv.Encode(nil) },
		func(b []byte) (interval, error) { iv, err := crdt.DecodeInterval(b); return interval{iv}, err }),
}

// samples are encodings of each type: plain, conflicting, combined, empty,
// with every rare field.
func samples() map[string][][]byte {
	out := map[string][][]byte{}
	put := func(name string, b []byte) { out[name] = append(out[name], b) }
	cart := func(c *crdt.Cart, ops ...crdt.Op) {
		put("cart", c.Encode(nil))
		put("context", c.Context.Encode(nil))
		put("state", crdt.State{Cart: c, Ops: ops}.Encode(nil))
		put("state", crdt.State{Cart: c, Ops: ops, Active: crdt.Active{At: crdt.TimestampAt(1_700_000_000_123) + 7, Region: 3}}.Encode(nil))
	}
	cart(&crdt.Cart{})
	cart(realistic(10, 3, 3_600_000, 1))

	h := crdttest.New(2)
	at := crdt.TimestampAt(1_700_000_000_000)
	edits := []struct {
		region int
		kind   crdttest.EditKind
		line   int
	}{
		{0, crdttest.Add, 0}, {0, crdttest.Add, 1}, {1, crdttest.Add, 0}, {1, crdttest.Save, 0}, {0, crdttest.Set, 0},
		{0, crdttest.Attributes, 0}, {1, crdttest.Attributes, 0}, {1, crdttest.Add, 2}, {1, crdttest.Save, 2},
		{1, crdttest.Attributes, 2}, {0, crdttest.Remove, 1}, {1, crdttest.AddRenew, 2},
	}
	for i, e := range edits {
		at += crdt.Timestamp(i%3) << 14
		w := crdt.Writer{Replica: h.Regions[e.region].Replica, At: at, Floor: uint64(4 * e.region)}
		if i%5 == 4 {
			w.Replica.Lineage = "guest:9"
		}
		h.Write(e.region, crdttest.Edit{
			Kind: e.kind, Key: h.Keys[e.line], Quantity: uint32(i), Pairs: "note=hi",
			Offer: crdt.Offer{Price: int64(50 - 5*i), Currency: []string{"EUR", "GBP"}[i%2], AddedAt: at},
		}, w)
		c := h.Regions[e.region].Cart
		cart(c, crdt.Op{Dot: crdt.Dot{Replica: w.Replica, Seq: 1}, ID: crdt.OpID{1, 2}, Fingerprint: 3, At: at})
	}
	h.Rebirth(1)
	h.Regions[1].Replica.Incarnation = 70_000
	h.Streams[2].Incarnation = 70_000
	long := crdt.LineKey{Seller: "s", SKU: strings.Repeat("sku-", 16), Options: "a=b"}
	h.Write(1, crdttest.Edit{Kind: crdttest.Add, Key: long, Quantity: 1}, crdt.Writer{Replica: h.Regions[1].Replica})
	cart(h.Regions[1].Cart)
	cart(crdt.Join(h.Regions[0].Cart, h.Regions[1].Cart))
	for _, s := range h.Streams {
		rows := h.Rows[s]
		for _, r := range rows {
			put("delta", r.Delta.Encode(nil))
			put("row", r.Encode(nil))
		}
		n := uint64(len(rows))
		put("interval", crdt.Interval{Stream: s, Hi: n, Rows: rows}.Encode(nil))
		put("interval", crdt.Interval{Stream: s, Lo: n, Hi: n + 9}.Encode(nil))
	}
	rows := h.Rows[h.Streams[0]]
	combined := crdt.CombineRows(rows[0], rows[2])
	put("row", combined.Encode(nil))
	for _, age := range []crdt.Timestamp{1, combined.At} {
		aged := combined
		aged.Age = age
		put("row", aged.Encode(nil))
	}
	put("delta", combined.Delta.Encode(nil))
	put("interval", crdt.Interval{Stream: h.Streams[0], Hi: rows[2].Seq, Rows: []crdt.Row{combined, rows[1]}}.Encode(nil))
	return out
}

func TestRoundTrip(t *testing.T) {
	for name, all := range samples() {
		for i, b := range all {
			again, err := codecs[name].again(t, b)
			if err != nil {
				t.Fatalf("%s %d: %v", name, i, err)
			}
			if !bytes.Equal(again, b) {
				t.Fatalf("%s %d: %x, encoded again %x", name, i, b, again)
			}
		}
	}
}

func TestRoundTripOfHistories(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := crdttest.Random(t, 40)
		for _, r := range h.Regions {
			ops := []crdt.Op{}
			for _, row := range h.Rows[h.Streams[0]] {
				ops = append(ops, row.Ops...)
			}
			for name, b := range map[string][]byte{
				"cart": r.Cart.Encode(nil), "context": r.Cart.Context.Encode(nil),
				"state": crdt.State{Cart: r.Cart, Ops: ops}.Encode(nil),
			} {
				if again, err := codecs[name].again(t, b); err != nil || !bytes.Equal(again, b) {
					t.Fatalf("%s %x: again %x, %v", name, b, again, err)
				}
			}
		}
		for _, iv := range h.Intervals(t) {
			crdttest.RoundTrip(t, func(iv interval) []byte { return iv.Encode(nil) },
				func(b []byte) (interval, error) { iv, err := crdt.DecodeInterval(b); return interval{iv}, err }, interval{iv})
			for _, r := range iv.Rows {
				crdttest.RoundTrip(t, func(d crdt.Delta) []byte { return d.Encode(nil) }, crdt.DecodeDelta, r.Delta)
				crdttest.RoundTrip(t, func(r row) []byte { return r.Encode(nil) },
					func(b []byte) (row, error) { r, err := crdt.DecodeRow(b); return row{r}, err }, row{r})
			}
		}
	})
}

// An encoding is appended to what is there.
func TestEncodeAppends(t *testing.T) {
	c := realistic(3, 2, 1000, 1)
	b := c.Encode([]byte("before"))
	if !bytes.Equal(b, append([]byte("before"), c.Encode(nil)...)) {
		t.Fatalf("%x", b)
	}
}

// Every prefix of an encoding, and every encoding with a byte more, is
// refused; so is another format.
func TestTruncatedAndForeign(t *testing.T) {
	for name, all := range samples() {
		for _, b := range all {
			for n := range b {
				if _, err := codecs[name].again(t, b[:n]); !errors.Is(err, crdt.ErrCorrupt) {
					t.Fatalf("%s: %d of %d bytes of %x: %v", name, n, len(b), b, err)
				}
			}
			if _, err := codecs[name].again(t, append(slices.Clone(b), 0)); !errors.Is(err, crdt.ErrCorrupt) {
				t.Fatalf("%s: a byte more: %v", name, err)
			}
			for _, format := range []byte{0, 2, 255} {
				other := slices.Clone(b)
				other[0] = format
				if _, err := codecs[name].again(t, other); !errors.Is(err, crdt.ErrFormat) || errors.Is(err, crdt.ErrCorrupt) {
					t.Fatalf("%s: format %d: %v", name, format, err)
				}
			}
		}
	}
}

// A flipped bit gives another value of the type, in its canonical form, or
// an error; never a panic.
func TestFlippedBits(t *testing.T) {
	for name, all := range samples() {
		for _, b := range all {
			for bit := range 8 * len(b) {
				flipped := slices.Clone(b)
				flipped[bit/8] ^= 1 << (bit % 8)
				checkDecoder(t, codecs[name], flipped)
			}
		}
	}
}

// checkDecoder is what every decoder must hold on any input.
func checkDecoder(t crdttest.T, c codec, b []byte) {
	t.Helper()
	again, err := c.again(t, b)
	switch {
	case err != nil && !errors.Is(err, crdt.ErrCorrupt) && !errors.Is(err, crdt.ErrFormat):
		t.Fatalf("%s %x: error of no kind: %v", c.name, b, err)
	case err == nil && !bytes.Equal(again, b):
		t.Fatalf("%s: not canonical, and taken: %x is %x", c.name, b, again)
	}
}

// Counts and lengths that the data cannot hold do not make a decoder
// allocate for them.
func TestDecodersAllocateInProportion(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0x7f}
	for name, all := range samples() {
		for _, b := range all[:min(len(all), 6)] {
			for i := 1; i < len(b); i++ {
				forged := slices.Concat(b[:i], huge, b[i:])
				n := testing.AllocsPerRun(1, func() { checkDecoder(t, codecs[name], forged) })
				if limit := float64(60 + 20*len(forged)); n > limit {
					t.Fatalf("%s %x: %v allocations for %d bytes", name, forged, n, len(forged))
				}
			}
		}
	}
}

// What the encoder never writes is refused, each with its reason.
func TestNotCanonical(t *testing.T) {
	for _, c := range []struct {
		name, want string
		b          []byte
	}{
		{"number too long", "bad number", []byte{1, 0x80, 0}},
		{"number over 64 bits", "bad number", append([]byte{1}, bytes.Repeat([]byte{0xff}, 10)...)},
		{"more replicas than bytes", "count over", []byte{1, 9, 0}},
		{"region out of range", "region out of range", []byte{1, 1, 0xff, 0xff, 0xff, 0x7f, 1}},
		{"incarnation out of range", "incarnation out of range", []byte{1, 1, 0x1d, 0xff, 0xff, 0xff, 0xff, 0x1f, 1}},
		{"empty lineage", "empty lineage", []byte{1, 1, 0x13, 0, 1}},
		{"lineage too long", "string too long", []byte{1, 1, 0x13, 0xff, 0xff, 0x7f, 1}},
		{"replica twice", "replicas out of order", []byte{1, 2, 0x11, 1, 0x11, 1}},
		{"no dots", "replica without dots", []byte{1, 1, 0x11, 0}},
		{"no ranges", "replica without dots", []byte{1, 1, 0x10, 0}},
		{"plain range written out", "plain range", []byte{1, 1, 0x10, 1, 1, 4}},
		{"adjacent ranges", "ranges not apart", []byte{1, 1, 0x10, 2, 1, 0, 0, 0}},
		{"seq out of range", "seq out of range", []byte{1, 1, 0x10, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := crdt.DecodeContext(c.b); !errors.Is(err, crdt.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
	// One line, one dot: context, one currency with times of no width.
	line := func(flags byte, rest ...byte) []byte {
		return append([]byte{1, 1, 0x11, 1, 1 << 3, 3, 'E', 'U', 'R', 5, 1, flags}, rest...)
	}
	const regular, sameSeller, options, rare = 4, 1, 2, 32
	good := line(regular, 1, 's', 1, 'k', 1, 2, 3)
	if _, err := crdt.DecodeCart(good); err != nil {
		t.Fatalf("the form to start from: %v", err)
	}
	for _, c := range []struct {
		name, want string
		b          []byte
	}{
		{"seller twice", "seller given twice", line(regular, 0, 1, 'k', 1, 2, 3)},
		{"empty options", "empty options", line(regular|options, 1, 's', 1, 'k', 0, 1, 2, 3)},
		{"shared with nothing", "shared part", line(regular, 1, 's', 1<<4|1, 'k', 1, 2, 3)},
		{"rare, but is not", "offer not in the shortest", line(regular|rare, 1, 's', 1, 'k', 1, 2, 3, 0, 0)},
		{"unknown currency", "unknown currency", line(regular|rare, 1, 's', 1, 'k', 1, 2, 3, 1, 0)},
		{"logical time out of range", "time out of range", line(regular|rare, 1, 's', 1, 'k', 1, 2, 3, 0, 0x80, 0x80, 4)},
		{"dots all given, all one", "dots not in", line(regular|3<<6, 1, 's', 1, 'k', 1, 1, 1, 1, 2, 3)},
		{"dot not seen", "dot outside its context", line(regular, 1, 's', 1, 'k', 2, 2, 3)},
		{"quantity out of range", "quantity out of range", line(regular, 1, 's', 1, 'k', 1, 0xff, 0xff, 0xff, 0xff, 0x1f, 3)},
		{"price out of range", "price out of range",
			line(regular, 1, 's', 1, 'k', 1, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)},
		{"flags of a regular line", "unknown flags", line(1<<6, 1, 's', 1, 'k', 0, 1, 1, 1, 0, 0, 0)},
		{"empty line", "empty line", line(0, 1, 's', 1, 'k', 0, 0, 0, 0, 0)},
		{"unknown placement", "unknown placement", line(0, 1, 's', 1, 'k', 0, 0, 1, 1, 2, 0, 0)},
		{"unused currency", "unused currency", line(0, 1, 's', 1, 'k', 0, 1, 1, 1, 0, 0, 0)},
		{"regular line written out", "line not in the shortest",
			line(0, 1, 's', 1, 'k', 1, 1, 2, 0, 0, 6, 0, 0, 0, 1, 1, 2, 1, 1, 0, 1, 1, 0, 6, 0, 0)},
		{"times wider than needed", "times not in", []byte{1, 1, 0x11, 1, 1<<3 | 1, 3, 'E', 'U', 'R', 5, 1, regular, 1, 's', 1, 'k', 1, 2, 3, 0}},
		{"base before all times", "times not in", []byte{1, 1, 0x11, 1, 1<<3 | 1, 3, 'E', 'U', 'R', 5, 1, regular, 1, 's', 1, 'k', 1, 2, 3, 7}},
		{"time out of range", "time out of range",
			[]byte{1, 1, 0x11, 1, 1<<3 | 1, 3, 'E', 'U', 'R', 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 1, regular, 1, 's', 1, 'k', 1, 2, 3, 7}},
		{"width without currency", "count over", []byte{1, 1, 0x11, 1, 1, 0}},
		{"currencies out of order", "currencies out of order", []byte{1, 1, 0x11, 1, 2 << 3, 1, 'F', 1, 'E', 5, 0}},
		{"dot without a context", "dot without a context", []byte{1, 0, 0, 1, regular, 1, 's', 1, 'k', 1, 2, 3}},
		{"lines out of order", "lines out of order",
			[]byte{1, 1, 0x11, 1, 1 << 3, 3, 'E', 'U', 'R', 5, 2, regular, 1, 's', 1, 'k', 1, 2, 3, regular | sameSeller, 1, 'a', 1, 2, 3}},
		{"prefix not shared", "SKU not in",
			[]byte{1, 1, 0x11, 1, 1 << 3, 3, 'E', 'U', 'R', 5, 2, regular, 1, 's', 1, 'k', 1, 2, 3, regular | sameSeller, 2, 'k', 'a', 1, 2, 3}},
		{"writes out of order", "writes out of order", []byte{1, 1, 0x11, 2, 0, 1, 0, 1, 's', 1, 'k', 0, 2, 2, 1, 1, 1, 0, 0, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := crdt.DecodeCart(c.b); !errors.Is(err, crdt.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
	d := crdt.Delta{Key: crdttest.Keys()[0], Context: crdt.ContextOf(crdt.Dot{Seq: 1}, crdt.Dot{Seq: 2})}
	for _, c := range []struct {
		want string
		b    []byte
	}{
		{"delta without a dot", d.Encode(nil)},
		{"delta of several lines", append(realistic(2, 1, 1000, 1).Encode(nil), 0)},
		{"dots out of order", crdt.Delta{Key: d.Key, Context: d.Context, Dots: []crdt.Dot{{Seq: 2}, {Seq: 1}}}.Encode(nil)},
	} {
		if _, err := crdt.DecodeDelta(c.b); !errors.Is(err, crdt.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
			t.Fatalf("%v, want %q", err, c.want)
		}
	}
	d.Dots = []crdt.Dot{{Seq: 2}}
	for _, r := range []crdt.Row{{Delta: d}, {Seq: 5, Last: 4, Delta: d}} {
		if _, err := crdt.DecodeRow(r.Encode(nil)); !errors.Is(err, crdt.ErrCorrupt) {
			t.Fatalf("row %d to %d: %v", r.Seq, r.Last, err)
		}
	}
	plain := func(seq uint64) crdt.Row { return crdt.Row{Seq: seq, Last: seq, Delta: d} }
	for _, iv := range []crdt.Interval{
		{Lo: 5, Hi: 4},
		{Lo: 5, Hi: 6, Rows: []crdt.Row{plain(5)}},
		{Lo: 5, Hi: 6, Rows: []crdt.Row{plain(7)}},
		{Lo: 5, Hi: 7, Rows: []crdt.Row{plain(7), plain(6)}},
		{Lo: 5, Hi: 7, Rows: []crdt.Row{{Seq: 6, Last: 8, Delta: d}}},
	} {
		if _, err := crdt.DecodeInterval(iv.Encode(nil)); !errors.Is(err, crdt.ErrCorrupt) {
			t.Fatalf("interval %+v: %v", iv, err)
		}
	}
}

// More replicas than a dot's number can name are refused.
func TestTooManyReplicas(t *testing.T) {
	b := []byte{1, 0x81, 0x80, 4} // 65,537
	for region := range math.MaxUint16 + 1 {
		b = append(b, crdt.ContextOf(crdt.Dot{Replica: crdt.Replica{Region: crdt.RegionID(region)}, Seq: 1}).Encode(nil)[2:]...)
	}
	b = append(b, 0xfd, 0xff, 0x3f, 0, 1) // region 65535, incarnation 3
	if _, err := crdt.DecodeContext(b); !errors.Is(err, crdt.ErrCorrupt) || !strings.Contains(err.Error(), "too many replicas") {
		t.Fatal(err)
	}
}

// A dot outside the context is a broken invariant, and says which.
func TestEncodePanicsOnAnUnseenDot(t *testing.T) {
	defer func() {
		if s := fmt.Sprint(recover()); !strings.Contains(s, "7.1/guest:9:3") {
			t.Fatalf("panic %q does not name the dot", s)
		}
	}()
	dot := crdt.Dot{Replica: crdt.Replica{Region: 7, Incarnation: 1, Lineage: "guest:9"}, Seq: 3}
	(&crdt.Cart{Lines: crdt.ORMap{{Line: &crdt.Line{Quantity: crdt.Register[uint32]{{Dot: dot}}}}}}).Encode(nil)
}
