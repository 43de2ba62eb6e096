package replication

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/samecart/samecart/crdt"
)

var testNow = time.UnixMilli(1_700_000_000_000)

func testLimits() Limits {
	l := DefaultLimits()
	l.Now = testNow
	return l
}

// honest returns an interval of region 1 with a plain, a combined and a
// removing row, as a fresh value.
func honest() crdt.Interval {
	at := crdt.TimestampAt(testNow.UnixMilli())
	w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 3}, At: at}
	c := &crdt.Cart{}
	k := crdt.LineKey{Seller: "s", SKU: "tea"}
	var rows []crdt.Row
	add := func(d crdt.Delta) {
		c = c.Apply(d)
		seq := uint64(len(rows) + 11)
		rows = append(rows, crdt.Row{Seq: seq, Last: seq, CartID: "cart:u", At: at, Delta: d,
			Ops: []crdt.Op{{Dot: d.Dots[0], ID: crdt.OpID{1}, At: at}}})
	}
	offer := crdt.Offer{Price: 100, Currency: "USD", AddedAt: at}
	add(c.Add(w, crdt.LineKey{Seller: "s", SKU: "cup", Options: "size=l"}, 1, offer, false))
	add(c.Add(w, k, 2, offer, false))
	add(c.SetAttributes(w, k, "note=hi"))
	add(c.Remove(w, k))
	rows[1] = crdt.CombineRows(rows[1], rows[2])
	rows = append(rows[:2], rows[3])
	return crdt.Interval{Stream: crdt.Stream{Region: 1, Incarnation: 3, Shard: 5}, Lo: 10, Hi: 14, Rows: rows}
}

func TestValidateTakesHonestIntervals(t *testing.T) {
	c, err := Validate(honest(), 1, testLimits())
	if err != nil || c.Ahead != 0 || c.Adopt != crdt.TimestampAt(testNow.UnixMilli()) {
		t.Fatalf("got %+v, %v", c, err)
	}
}

func TestValidateRefusesHostileIntervals(t *testing.T) {
	foreign := crdt.Dot{Replica: crdt.Replica{Region: 2, Incarnation: 3}, Seq: 1}
	late := crdt.Dot{Replica: crdt.Replica{Region: 1, Incarnation: 4}, Seq: 1}
	unseen := crdt.Dot{Replica: crdt.Replica{Region: 1, Incarnation: 3}, Seq: 99}
	for name, c := range map[string]struct {
		change func(iv *crdt.Interval, l *Limits)
		want   string
	}{
		"another region's stream": {func(iv *crdt.Interval, _ *Limits) { iv.Stream.Region = 2 }, "from region 1"},
		"another incarnation":     {func(iv *crdt.Interval, _ *Limits) { iv.Stream.Incarnation = 4 }, "incarnation 4"},
		"empty":                   {func(iv *crdt.Interval, _ *Limits) { iv.Hi = iv.Lo }, "empty"},
		"backwards":               {func(iv *crdt.Interval, _ *Limits) { iv.Hi = 3 }, "empty"},
		"too many rows":           {func(_ *crdt.Interval, l *Limits) { l.Rows = 2 }, "at most 2"},
		"row below":               {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].Seq = 10 }, "after row 10"},
		"row beyond":              {func(iv *crdt.Interval, _ *Limits) { iv.Rows[2].Last = 15 }, "row 14 to 15"},
		"rows out of order":       {func(iv *crdt.Interval, _ *Limits) { iv.Rows[1].Seq = 11 }, "after row 11"},
		"row ends before it starts": {func(iv *crdt.Interval, _ *Limits) {
			iv.Rows[1].Last = 11
		}, "row 12 to 11"},
		"no cart id":     {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].CartID = "" }, "cart id of 0 bytes"},
		"long cart id":   {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].CartID = strings.Repeat("x", 256) }, "256 bytes"},
		"cart id binary": {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].CartID = "a\xff" }, "not UTF-8"},
		"cart id line":   {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].CartID = "a\nb" }, "control character"},
		"delete in SKU":  {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].Delta.Key.SKU = "a\x7f" }, "SKU"},
		"long key":       {func(_ *crdt.Interval, l *Limits) { l.KeyBytes = 3 }, "line key"},
		"no dots":        {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].Delta.Dots = nil }, "no new dot"},
		"many dots":      {func(_ *crdt.Interval, l *Limits) { l.Dots = 1 }, "2 new dots"},
		"foreign dot": {func(iv *crdt.Interval, _ *Limits) {
			d := &iv.Rows[0].Delta
			d.Dots, d.Context = []crdt.Dot{foreign}, d.Context.With(foreign)
		}, "new dot 2.3:1"},
		"dot of a later incarnation": {func(iv *crdt.Interval, _ *Limits) {
			d := &iv.Rows[0].Delta
			d.Dots, d.Context = []crdt.Dot{late}, d.Context.With(late)
		}, "new dot 1.4:1"},
		"dot outside the context": {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].Delta.Dots = []crdt.Dot{unseen} }, "not in the row's context"},
		"dots twice": {func(iv *crdt.Interval, _ *Limits) {
			d := &iv.Rows[0].Delta
			d.Dots = []crdt.Dot{d.Dots[0], d.Dots[0]}
		}, "out of order"},
		"many ops":           {func(_ *crdt.Interval, l *Limits) { l.Ops = 0 }, "1 ops"},
		"op of another dot":  {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].Ops[0].Dot = unseen }, "op of dot"},
		"many replicas":      {func(_ *crdt.Interval, l *Limits) { l.Replicas = 0 }, "1 replicas"},
		"gaps":               {func(_ *crdt.Interval, l *Limits) { l.Exceptions = -1 }, "gaps"},
		"long attributes":    {func(_ *crdt.Interval, l *Limits) { l.PairsBytes = 3 }, "attributes of 7 bytes"},
		"many writes":        {func(_ *crdt.Interval, l *Limits) { l.Writes = 0 }, "1 writes"},
		"write of no dot":    {func(iv *crdt.Interval, _ *Limits) { iv.Rows[0].Delta.Line.Quantity[0].Dot = unseen }, "quantity has dot"},
		"write in no order":  {func(iv *crdt.Interval, _ *Limits) { l := iv.Rows[0].Delta.Line; l.Offer = append(l.Offer, l.Offer[0]) }, "out of order"},
		"carried attributes": {func(iv *crdt.Interval, l *Limits) { iv.Rows[1].Delta.Line.Attributes = nil; l.PairsBytes = 3 }, "attributes of 7 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			iv, l := honest(), testLimits()
			c.change(&iv, &l)
			_, err := Validate(iv, 1, l)
			if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// A clock ahead is counted, never adopted, and its row is still taken.
func TestValidateClampsClocks(t *testing.T) {
	iv := honest()
	ok := crdt.TimestampAt(testNow.Add(30 * time.Second).UnixMilli())
	bad := crdt.TimestampAt(testNow.Add(2 * time.Minute).UnixMilli())
	iv.Rows[0].At = ok
	iv.Rows[1].At = bad
	iv.Rows[1].Ops[0].At = bad
	iv.Rows[1].Delta.Line.Offer[0].Value.AddedAt = bad
	iv.Rows[1].Delta.Line.Attributes[0].Value.At = ^crdt.Timestamp(0)
	c, err := Validate(iv, 1, testLimits())
	if err != nil || c.Ahead != 4 || c.Adopt != ok {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestValidateCarts(t *testing.T) {
	iv := honest()
	cart := &crdt.Cart{}
	for _, r := range iv.Rows[:2] {
		cart = cart.Apply(r.Delta)
	}
	data := crdt.State{Cart: cart, Ops: iv.Rows[0].Ops}.Encode(nil)
	good := []WholeCart{{"cart:u", data}}
	if c, err := ValidateCarts(good, testLimits()); err != nil || c.Ahead != 0 || c.Adopt == 0 {
		t.Fatalf("got %+v, %v", c, err)
	}
	for name, c := range map[string]struct {
		carts  []WholeCart
		change func(l *Limits)
		want   string
	}{
		"many":       {good, func(l *Limits) { l.Carts = 0 }, "1 whole carts"},
		"id":         {[]WholeCart{{"", data}}, func(*Limits) {}, "cart id of 0 bytes"},
		"no data":    {[]WholeCart{{"a", nil}}, func(*Limits) {}, "corrupt"},
		"cut off":    {[]WholeCart{{"a", data[:len(data)-1]}}, func(*Limits) {}, "corrupt"},
		"lines":      {good, func(l *Limits) { l.CartLines = 1 }, "2 lines"},
		"ops":        {good, func(l *Limits) { l.CartOps = 0 }, "1 ops"},
		"attributes": {good, func(l *Limits) { l.PairsBytes = 1 }, "attributes"},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLimits()
			c.change(&l)
			if _, err := ValidateCarts(c.carts, l); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Whatever arrives, decoding and checking it neither panics nor lets a dot
// of another region in as new; and what is taken may be joined and combined.
func FuzzValidate(f *testing.F) {
	codec, err := NewCodec(1 << 20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(honest().Encode(nil), false)
	small := honest()
	small.Rows = small.Rows[2:]
	f.Add(small.Encode(nil), false)
	f.Add([]byte{1, 2, 3}, true)
	f.Fuzz(func(t *testing.T, data []byte, compressed bool) {
		iv, err := codec.Decode(data, compressed)
		if err != nil {
			if !errors.Is(err, ErrRefused) {
				t.Fatalf("%v is not ErrRefused", err)
			}
			return
		}
		if _, err := Validate(iv, 1, testLimits()); err != nil {
			return
		}
		var b batch
		b.reset(iv.Lo)
		b.add(iv, 64)
		c := &crdt.Cart{}
		for _, r := range iv.Rows {
			for _, d := range r.Delta.Dots {
				if d.Replica.Region != 1 || d.Replica.Incarnation != iv.Stream.Incarnation {
					t.Fatalf("dot %v was taken", d)
				}
			}
			c = c.Apply(r.Delta)
			if !c.Context.Covers(r.Delta.Context) {
				t.Fatal("a joined row is not seen")
			}
		}
		_ = c.Encode(nil)
		if _, err := Validate(b.take(iv.Stream), 1, testLimits()); err != nil {
			t.Fatalf("taken plain, refused combined: %v", err)
		}
	})
}
