package crdttest

import (
	"fmt"
	"slices"

	"github.com/samecart/samecart/crdt"
	"pgregory.net/rapid"
)

// WritesMax bounds the dots of one random history, so that a model can name
// them by the bits of a uint64.
const WritesMax = 60

// EditKind says which mutator an Edit calls.
type EditKind int

// One kind for each mutator of crdt.Cart; the two placements are kinds of
// their own.
const (
	Add EditKind = iota
	AddRenew
	Set
	Save
	Move
	Attributes
	Remove
	Clear
	// Of the cart's facts; drawn when History.Facts is set.
	SetFact
	DropFact
	Erase
)

func (k EditKind) String() string {
	return [...]string{"add", "add-renew", "set", "save", "move", "attributes", "remove", "clear", "set fact", "drop fact", "erase"}[k]
}

// Edit is one shopper's edit.
type Edit struct {
	Kind     EditKind
	Key      crdt.LineKey
	Quantity uint32 // Add, AddRenew: how many more; Set: the quantity
	Offer    crdt.Offer
	Pairs    string
}

func (e Edit) String() string {
	return fmt.Sprintf("%v %s %d", e.Kind, e.Key.SKU, e.Quantity)
}

// NeedsLine reports whether e is an edit of a line that must be there.
func (e Edit) NeedsLine() bool {
	switch e.Kind {
	case Set, Save, Move, Attributes:
		return true
	default:
		return false
	}
}

// Do returns the deltas of the edit; it applies none of them.
func (e Edit) Do(c *crdt.Cart, w crdt.Writer) []crdt.Delta {
	switch e.Kind {
	case Add, AddRenew:
		return []crdt.Delta{c.Add(w, e.Key, e.Quantity, e.Offer, e.Kind == AddRenew)}
	case Set:
		return []crdt.Delta{c.SetQuantity(w, e.Key, e.Quantity)}
	case Save:
		return []crdt.Delta{c.SetPlacement(w, e.Key, crdt.Saved)}
	case Move:
		return []crdt.Delta{c.SetPlacement(w, e.Key, crdt.InCart)}
	case Attributes:
		return []crdt.Delta{c.SetAttributes(w, e.Key, e.Pairs)}
	case Remove:
		return []crdt.Delta{c.Remove(w, e.Key)}
	case SetFact:
		return []crdt.Delta{c.SetFact(w, crdt.FactCode, e.Key.SKU, e.Pairs)}
	case DropFact:
		return []crdt.Delta{c.DropFact(w, crdt.FactCode, e.Key.SKU)}
	case Erase:
		return []crdt.Delta{c.Erase(w)}
	default:
		return c.Clear(w)
	}
}

// Region is one region's replica of the cart.
type Region struct {
	Replica crdt.Replica // lineage is empty
	Cart    *crdt.Cart
	Cursors map[crdt.Stream]uint64 // the last row received, per stream
}

// Receive applies an interval of a stream as a region does: it joins every
// row that ends above the cursor, also one whose dots are all seen, and then
// moves the cursor to the interval's end. It reports false, and does
// nothing, when the interval starts after the cursor.
//
// The cursor does not move row by row: a combined row ends after rows of
// other lines that lie between its parts and come later in the interval.
func (r *Region) Receive(iv crdt.Interval) bool {
	cursor := r.Cursors[iv.Stream]
	if cursor < iv.Lo {
		return false
	}
	for _, row := range iv.Rows {
		if row.Last > cursor {
			r.Cart = r.Cart.Apply(row.Delta)
		}
	}
	r.Cursors[iv.Stream] = max(cursor, iv.Hi)
	return true
}

// EventKind says what a step did.
type EventKind int

// The steps of a history.
const (
	Wrote     EventKind = iota // Region made Edit as Writer; Rows are its rows
	Delivered                  // Region received Rows[0] of From's stream
	Joined                     // Region joined From's whole cart
	Reborn                     // Region began a new incarnation
)

// Event is one step of a history, after it was taken.
type Event struct {
	Kind   EventKind
	Region int
	From   int
	Edit   Edit
	Writer crdt.Writer
	Rows   []crdt.Row
}

func (e Event) String() string {
	switch e.Kind {
	case Wrote:
		return fmt.Sprintf("%d %v", e.Region, e.Edit)
	case Delivered:
		return fmt.Sprintf("%d gets row %d of %d", e.Region, e.Rows[0].Seq, e.From)
	case Joined:
		return fmt.Sprintf("%d joins cart of %d", e.Region, e.From)
	default:
		return fmt.Sprintf("%d reborn", e.Region)
	}
}

// History is one cart in several regions.
type History struct {
	Regions []*Region
	Streams []crdt.Stream // in the order in which they began
	Rows    map[crdt.Stream][]crdt.Row
	Keys    []crdt.LineKey
	// Facts has steps write facts too, and now and then erase the cart.
	Facts  bool
	Writes int // dots minted
	now    crdt.Timestamp
}

// Keys are the lines of random histories: two sellers, with and without
// options.
func Keys() []crdt.LineKey {
	return []crdt.LineKey{
		{Seller: "retail", SKU: "85123A"},
		{Seller: "retail", SKU: "85123B", Options: "colour=red"},
		{Seller: "seller-1", SKU: "85123A"},
	}
}

// New returns a history of n regions in which nothing has happened.
func New(n int) *History {
	h := &History{Rows: map[crdt.Stream][]crdt.Row{}, Keys: Keys()}
	for i := range n {
		r := &Region{Cart: &crdt.Cart{}, Cursors: map[crdt.Stream]uint64{}}
		r.Replica.Region = crdt.RegionID(i + 1)
		h.Regions = append(h.Regions, r)
		h.Streams = append(h.Streams, h.stream(i))
	}
	return h
}

func (h *History) stream(region int) crdt.Stream {
	r := h.Regions[region].Replica
	return crdt.Stream{Region: r.Region, Incarnation: r.Incarnation, Shard: 1}
}

// Write makes the edit in a region: it applies the deltas there and appends
// them, one row each, to the region's stream.
func (h *History) Write(region int, e Edit, w crdt.Writer) Event {
	r, s := h.Regions[region], h.stream(region)
	out := Event{Kind: Wrote, Region: region, Edit: e, Writer: w}
	for _, d := range e.Do(r.Cart, w) {
		r.Cart = r.Cart.Apply(d)
		seq := uint64(len(h.Rows[s]) + 1)
		row := crdt.Row{Seq: seq, Last: seq, CartID: "user:1", At: w.At, Delta: d}
		row.Ops = []crdt.Op{{Dot: d.Dots[0], ID: crdt.OpID{byte(region), byte(seq)}, Fingerprint: seq, At: w.At}}
		h.Rows[s] = append(h.Rows[s], row)
		h.Writes++
		out.Rows = append(out.Rows, row)
	}
	return out
}

// Pending returns the number of rows of s that the region has not received.
func (h *History) Pending(region int, s crdt.Stream) int {
	r := h.Regions[region]
	if r.Replica.Region == s.Region {
		return 0
	}
	return len(h.Rows[s]) - int(r.Cursors[s])
}

// Deliver gives a region the next row of a stream; there must be one.
func (h *History) Deliver(region int, s crdt.Stream) Event {
	r := h.Regions[region]
	row := h.Rows[s][r.Cursors[s]]
	r.Receive(crdt.Interval{Stream: s, Lo: row.Seq - 1, Hi: row.Last, Rows: []crdt.Row{row}})
	return Event{Kind: Delivered, Region: region, From: int(s.Region) - 1, Rows: []crdt.Row{row}}
}

// Join joins the whole cart of from into the region's. It moves no cursor:
// the rows come again, and change nothing.
func (h *History) Join(region, from int) Event {
	r := h.Regions[region]
	r.Cart = crdt.Join(r.Cart, h.Regions[from].Cart)
	return Event{Kind: Joined, Region: region, From: from}
}

// Rebirth begins a new incarnation of the region, with a stream of its own.
func (h *History) Rebirth(region int) Event {
	h.Regions[region].Replica.Incarnation++
	h.Streams = append(h.Streams, h.stream(region))
	return Event{Kind: Reborn, Region: region}
}

// Step draws one step and takes it.
func (h *History) Step(t *rapid.T) Event {
	region := rapid.IntRange(0, len(h.Regions)-1).Draw(t, "region")
	var from []crdt.Stream
	for _, s := range h.Streams {
		if h.Pending(region, s) > 0 {
			from = append(from, s)
		}
	}
	what := rapid.IntRange(0, 19).Draw(t, "step")
	// A clear may mint a dot for every line.
	full := h.Writes+len(h.Keys) > WritesMax
	switch {
	case what == 0:
		return h.Rebirth(region)
	case what <= 2:
		other := rapid.IntRange(0, len(h.Regions)-1).Draw(t, "other")
		return h.Join(region, other)
	case len(from) > 0 && (what <= 11 || full):
		return h.Deliver(region, rapid.SampledFrom(from).Draw(t, "stream"))
	case full:
		return h.Join(region, (region+1)%len(h.Regions))
	}
	w := h.Writer(t, region)
	return h.Write(region, h.Edit(t, region, w), w)
}

// Writer draws whom a region writes for: now and then a merged guest, now
// and then above a floor. Times of two writes may be equal.
func (h *History) Writer(t *rapid.T, region int) crdt.Writer {
	h.now += crdt.Timestamp(rapid.IntRange(0, 2).Draw(t, "tick"))
	w := crdt.Writer{Replica: h.Regions[region].Replica, At: crdt.TimestampAt(1_700_000_000_000) + h.now}
	if rapid.IntRange(0, 7).Draw(t, "guest") == 0 {
		w.Replica.Lineage = "guest:9"
	}
	return w
}

// Edit draws an edit that the region's cart allows, with the exception of a
// remove, which may name a line that is not there.
func (h *History) Edit(t *rapid.T, region int, w crdt.Writer) Edit {
	e := Edit{
		Kind:     rapid.SampledFrom([]EditKind{Add, Add, AddRenew, Set, Set, Save, Move, Attributes, Remove, Clear}).Draw(t, "edit"),
		Key:      rapid.SampledFrom(h.Keys).Draw(t, "key"),
		Quantity: uint32(rapid.IntRange(1, 9).Draw(t, "quantity")),
		Pairs:    rapid.SampledFrom([]string{"", "note=hi", "note=ho"}).Draw(t, "pairs"),
	}
	e.Offer = crdt.Offer{
		Price:    int64(rapid.IntRange(1, 3).Draw(t, "price")),
		Currency: rapid.SampledFrom([]string{"EUR", "GBP"}).Draw(t, "currency"),
		AddedAt:  w.At,
	}
	if h.Facts {
		e.Kind = rapid.SampledFrom([]EditKind{e.Kind, e.Kind, e.Kind, SetFact, DropFact}).Draw(t, "fact")
		if rapid.IntRange(0, 40).Draw(t, "erase") == 40 {
			e.Kind = Erase
		}
	}
	if e.NeedsLine() && !h.Regions[region].Cart.Lines.Find(e.Key).IsThere() {
		e.Kind = Add
	}
	return e
}

// DeliverNext delivers one row that is missing in some region; false when
// every region has every row.
func (h *History) DeliverNext(t *rapid.T) (Event, bool) {
	type missing struct {
		region int
		stream crdt.Stream
	}
	var all []missing
	for region := range h.Regions {
		for _, s := range h.Streams {
			if h.Pending(region, s) > 0 {
				all = append(all, missing{region, s})
			}
		}
	}
	if len(all) == 0 {
		return Event{}, false
	}
	next := rapid.SampledFrom(all).Draw(t, "missing")
	return h.Deliver(next.region, next.stream), true
}

// DeliverAll delivers every row that is missing anywhere, in random order
// but for the order in each stream.
func (h *History) DeliverAll(t *rapid.T) {
	for more := true; more; {
		_, more = h.DeliverNext(t)
	}
}

// Random draws a history of two to four regions and up to steps steps.
func Random(t *rapid.T, steps int) *History {
	h := New(rapid.IntRange(2, 4).Draw(t, "regions"))
	for range rapid.IntRange(0, steps).Draw(t, "steps") {
		h.Step(t)
	}
	return h
}

// Three returns the carts of three regions of one random history.
func Three(t *rapid.T) (a, b, c *crdt.Cart) {
	h := New(3)
	h.Facts = rapid.Bool().Draw(t, "facts")
	for range rapid.IntRange(0, 24).Draw(t, "steps") {
		h.Step(t)
	}
	return h.Regions[0].Cart, h.Regions[1].Cart, h.Regions[2].Cart
}

// Deltas returns all deltas of the history, in the order of its streams.
func (h *History) Deltas() []crdt.Delta {
	var out []crdt.Delta
	for _, s := range h.Streams {
		for _, r := range h.Rows[s] {
			out = append(out, r.Delta)
		}
	}
	return out
}

// Intervals cuts every stream into intervals at random places, and combines
// rows of one line inside each, also over rows of other lines.
func (h *History) Intervals(t *rapid.T) []crdt.Interval {
	var out []crdt.Interval
	for _, s := range h.Streams {
		rows := h.Rows[s]
		for lo := 0; lo < len(rows); {
			hi := rapid.IntRange(lo+1, len(rows)).Draw(t, "cut")
			iv := crdt.Interval{Stream: s, Lo: uint64(lo), Hi: uint64(hi)}
			for _, r := range rows[lo:hi] {
				i := slices.IndexFunc(iv.Rows, func(x crdt.Row) bool { return x.Delta.Key == r.Delta.Key })
				if i >= 0 && rapid.Bool().Draw(t, "combine") {
					iv.Rows[i] = crdt.CombineRows(iv.Rows[i], r)
				} else {
					iv.Rows = append(iv.Rows, r)
				}
			}
			out = append(out, iv)
			lo = hi
		}
	}
	return out
}
