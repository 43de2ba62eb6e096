package crdt

import (
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
)

// The encoding is canonical: equal values have equal bytes, and the decoder
// refuses any other bytes for them. It starts with a format byte; numbers
// are minimal unsigned varints, strings have their length before them.
//
//	cart    = format body
//	body    = context offers lines
//	context = n { shape [incarnation] [lineage] ranges }; its order is the
//	          dictionary: a dot is seq × replicas + replica's place
//	shape   = region, incarnation (2 bits, 3: follows less 3), has lineage,
//	          is plain: one range from seq 1, of which the end alone follows
//	offers  = currencies<<3 | time's width { currency } base: the currencies
//	          in use, sorted; the earliest millisecond an offer was added
//	          at; a time is a big-endian offset of that many bytes from it
//	lines   = n { flags [seller] sku [options] registers }, sorted by key
//	sku     = shared<<4 | rest: bytes shared with the SKU before of the same
//	          seller, at most 15, and bytes that follow (15: their number
//	          less 15 follows)
//
// A line whose registers have one write each, agreeing with the presence,
// and whose price is not negative, is "regular" and takes its values once;
// anything else is written out.
const (
	flagSameSeller = 1 << iota // the seller is the line's before
	flagOptions                // the key has options
	flagRegular                // one write a register, equal to what the presence carries
	flagSaved                  // regular, placed aside
	flagAttributes             // regular, with one write of attributes
	flagRare                   // regular, another currency than the first, or a time with a logical part
	flagDots                   // two bits: which registers of a regular line share a dot

	dotsOne       = 0 // presence, quantity, placement and offer have one dot
	dotsQuantity  = 1 // presence has quantity's, placement has offer's
	dotsPlacement = 2 // presence has placement's, quantity has offer's
	dotsAll       = 3 // each has its own
	dotsShift     = 6
	nibbleMax     = 15

	flagsOfRegular = flagSaved | flagAttributes | flagRare | flagDots | flagDots<<1
)

// encoder holds what one cart body's lines share.
type encoder struct {
	b          []byte
	replicas   []contextEntry
	currencies []string
	base       uint64
	width      int // bytes of a time
}

// Encode appends the canonical encoding of c to dst.
func (c *Cart) Encode(dst []byte) []byte {
	return appendBody(append(dst, format), c.Context, c.Lines)
}

func appendBody(dst []byte, cc CausalContext, m ORMap) []byte {
	var room [2]string // nearly always enough
	e := encoder{b: dst, replicas: cc.entries, currencies: room[:0], base: math.MaxUint64}
	e.context()
	latest := uint64(0)
	for _, l := range m {
		for i := range l.Line.Offer {
			latest = max(latest, e.offer(&l.Line.Offer[i].Value))
		}
		for i := range l.Line.Presence {
			latest = max(latest, e.offer(&l.Line.Presence[i].Value.Offer))
		}
	}
	slices.Sort(e.currencies)
	if len(e.currencies) > 0 {
		e.width = byteLen(latest - e.base)
	}
	e.uvarint(uint64(len(e.currencies))<<3 | uint64(e.width))
	for _, s := range e.currencies {
		e.b = appendString(e.b, s)
	}
	if len(e.currencies) > 0 {
		e.uvarint(e.base)
	}
	e.uvarint(uint64(len(m)))
	var last LineKey
	for _, l := range m {
		e.line(last, l.Key, l.Line)
		last = l.Key
	}
	return e.b
}

// offer takes note of what an offer brings to the dictionary, and returns its
// millisecond.
func (e *encoder) offer(o *Offer) uint64 {
	ms := uint64(o.AddedAt) >> 16
	e.base = min(e.base, ms)
	if n := len(e.currencies); (n == 0 || e.currencies[n-1] != o.Currency) && !slices.Contains(e.currencies, o.Currency) {
		e.currencies = append(e.currencies, o.Currency)
	}
	return ms
}

// byteLen returns the number of bytes that v takes, 0 for 0.
func byteLen(v uint64) int { return (bits.Len64(v) + 7) / 8 }

func (e *encoder) uvarint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }

func (e *encoder) context() {
	e.uvarint(uint64(len(e.replicas)))
	for _, c := range e.replicas {
		shape := uint64(c.replica.Region)<<4 | uint64(min(c.replica.Incarnation, 3))<<2
		if c.replica.Lineage != "" {
			shape |= 2
		}
		if isPlain(c.ranges) {
			shape |= 1
		}
		e.uvarint(shape)
		if c.replica.Incarnation >= 3 {
			e.uvarint(uint64(c.replica.Incarnation - 3))
		}
		if c.replica.Lineage != "" {
			e.b = appendString(e.b, c.replica.Lineage)
		}
		if isPlain(c.ranges) {
			e.uvarint(c.ranges[0].hi)
			continue
		}
		e.uvarint(uint64(len(c.ranges)))
		from := uint64(0) // ranges are neither empty nor adjacent: the gap is at least 1
		for _, r := range c.ranges {
			e.uvarint(r.lo - from)
			e.uvarint(r.hi - r.lo)
			from = r.hi + 1
		}
	}
}

func isPlain(rs []seqRange) bool { return len(rs) == 1 && rs[0].lo == 1 }

func appendReplica(b []byte, r Replica) []byte {
	b = binary.AppendUvarint(b, uint64(r.Region))
	b = binary.AppendUvarint(b, uint64(r.Incarnation))
	return appendString(b, r.Lineage)
}

func (e *encoder) dot(d Dot) {
	for i := range e.replicas {
		if e.replicas[i].replica == d.Replica {
			e.uvarint(d.Seq*uint64(len(e.replicas)) + uint64(i))
			return
		}
	}
	panic("crdt: dot " + d.String() + " is not in its cart's context")
}

// time writes the milliseconds of t.
func (e *encoder) time(t Timestamp) {
	v := uint64(t)>>16 - e.base
	for i := e.width - 1; i >= 0; i-- {
		e.b = append(e.b, byte(v>>(8*i)))
	}
}

func (e *encoder) currency(s string) uint64 {
	i, _ := slices.BinarySearch(e.currencies, s)
	return uint64(i)
}

// regular reports whether the compact form says all of l.
func regular(l *Line) bool {
	if len(l.Presence) != 1 || len(l.Quantity) != 1 || len(l.Placement) != 1 || len(l.Offer) != 1 || len(l.Attributes) > 1 {
		return false
	}
	c := Carried{Quantity: l.Quantity[0].Value, Placement: l.Placement[0].Value, Offer: l.Offer[0].Value}
	if len(l.Attributes) == 1 {
		c.Attributes = l.Attributes[0].Value
	}
	return l.Presence[0].Value == c && c.Offer.Price >= 0
}

// dotsForm returns the shortest form that says the dots of a regular line:
// presence, quantity, placement, offer.
func dotsForm(p, q, pl, o Dot) byte {
	switch {
	case p == q && p == pl && p == o:
		return dotsOne
	case p == q && pl == o:
		return dotsQuantity
	case p == pl && q == o:
		return dotsPlacement
	}
	return dotsAll
}

// sharedPrefix returns how many bytes of k's SKU are taken from the line
// before it.
func sharedPrefix(last, k LineKey) int {
	if last.Seller != k.Seller {
		return 0
	}
	n := 0
	for n < nibbleMax && n < len(last.SKU) && n < len(k.SKU) && last.SKU[n] == k.SKU[n] {
		n++
	}
	return n
}

func (e *encoder) line(last, k LineKey, l *Line) {
	var flags byte
	set := func(on bool, f byte) {
		if on {
			flags |= f
		}
	}
	set(k.Seller == last.Seller, flagSameSeller)
	set(k.Options != "", flagOptions)
	if regular(l) {
		o := l.Offer[0].Value
		set(true, flagRegular)
		set(l.Placement[0].Value == Saved, flagSaved)
		set(len(l.Attributes) == 1, flagAttributes)
		set(e.currency(o.Currency) != 0 || o.AddedAt&0xffff != 0, flagRare)
		flags |= dotsForm(l.Presence[0].Dot, l.Quantity[0].Dot, l.Placement[0].Dot, l.Offer[0].Dot) << dotsShift
	}
	e.b = append(e.b, flags)
	if flags&flagSameSeller == 0 {
		e.b = appendString(e.b, k.Seller)
	}
	shared := sharedPrefix(last, k)
	rest := k.SKU[shared:]
	e.b = append(e.b, byte(shared<<4|min(len(rest), nibbleMax)))
	if len(rest) >= nibbleMax {
		e.uvarint(uint64(len(rest) - nibbleMax))
	}
	e.b = append(e.b, rest...)
	if flags&flagOptions != 0 {
		e.b = appendString(e.b, k.Options)
	}
	if flags&flagRegular == 0 {
		e.irregular(l)
		return
	}
	e.dot(l.Presence[0].Dot)
	switch flags >> dotsShift {
	case dotsQuantity, dotsPlacement:
		e.dot(l.Offer[0].Dot)
	case dotsAll:
		e.dot(l.Quantity[0].Dot)
		e.dot(l.Placement[0].Dot)
		e.dot(l.Offer[0].Dot)
	}
	e.uvarint(uint64(l.Quantity[0].Value))
	o := l.Offer[0].Value
	e.uvarint(uint64(o.Price))
	e.time(o.AddedAt)
	if flags&flagRare != 0 {
		e.uvarint(e.currency(o.Currency))
		e.uvarint(uint64(o.AddedAt) & 0xffff)
	}
	if flags&flagAttributes != 0 {
		e.dot(l.Attributes[0].Dot)
		e.attributes(l.Attributes[0].Value)
	}
}

func (e *encoder) attributes(a Attributes) {
	e.b = appendString(e.b, a.Pairs)
	e.uvarint(uint64(a.At))
}

func (e *encoder) wholeOffer(o Offer) {
	e.uvarint(e.currency(o.Currency))
	e.uvarint(zigzag(o.Price))
	e.time(o.AddedAt)
	e.uvarint(uint64(o.AddedAt) & 0xffff)
}

func (e *encoder) irregular(l *Line) {
	encodeRegister(e, l.Presence, func(c Carried) {
		e.uvarint(uint64(c.Quantity))
		e.b = append(e.b, byte(c.Placement))
		e.wholeOffer(c.Offer)
		e.attributes(c.Attributes)
	})
	encodeRegister(e, l.Quantity, func(q uint32) { e.uvarint(uint64(q)) })
	encodeRegister(e, l.Placement, func(p Placement) { e.b = append(e.b, byte(p)) })
	encodeRegister(e, l.Offer, e.wholeOffer)
	encodeRegister(e, l.Attributes, e.attributes)
}

func encodeRegister[V comparable](e *encoder, r Register[V], value func(V)) {
	e.uvarint(uint64(len(r)))
	for _, w := range r {
		e.dot(w.Dot)
		value(w.Value)
	}
}

// decoder is the inverse of encoder.
type decoder struct {
	reader
	cc         CausalContext
	currencies []string
	used       []bool // per currency: an offer names it
	base       uint64
	width      int
	// The smallest and the largest offset from base: a canonical body has
	// 0, and one that takes the whole width.
	offsetMin, offsetMax uint64
}

// DecodeSeen returns what an encoded cart has seen, which stands at its beginning: b may
// end anywhere behind that.
func DecodeSeen(b []byte) (CausalContext, error) {
	d := decoder{reader: reader{b: b}}
	d.format()
	cc := d.context()
	if d.err != nil {
		return CausalContext{}, d.err
	}
	return cc, nil
}

// lineBytesMin is the length of the shortest line: flags, sizes of the SKU,
// dot, quantity, price.
const lineBytesMin = 5

// DecodeCart is the inverse of Cart.Encode. It takes untrusted bytes: any
// input gives a well-formed cart or an error that wraps ErrCorrupt or
// ErrFormat, and memory in proportion to the input.
func DecodeCart(b []byte) (*Cart, error) {
	d := decoder{reader: reader{b: b}}
	d.format()
	c := d.body()
	if err := d.end(); err != nil {
		return nil, err
	}
	return c, nil
}

func (d *decoder) body() *Cart {
	d.cc = d.context()
	d.offers()
	n := d.count(lineBytesMin)
	c := &Cart{Context: d.cc}
	if n > 0 {
		c.Lines = make(ORMap, 0, n)
	}
	var last LineKey
	for i := range n {
		k, l := d.line(last)
		if i > 0 && k.Compare(last) <= 0 {
			d.fail("lines out of order")
		}
		if d.err != nil {
			return nil
		}
		c.Lines = append(c.Lines, MapEntry{k, l})
		last = k
	}
	if slices.Contains(d.used, false) {
		d.fail("unused currency")
	}
	if len(d.currencies) > 0 && (d.offsetMin != 0 || byteLen(d.offsetMax) != d.width) {
		d.fail("times not in the shortest form")
	}
	return c
}

func (d *decoder) offers() {
	head := d.uvarint()
	n := head >> 3
	d.width = int(head & 7)
	if n > uint64(len(d.b)) || d.width > 6 || n == 0 && d.width > 0 {
		d.fail("count over the data's length")
	}
	d.currencies, d.used, d.base = nil, nil, 0
	d.offsetMin, d.offsetMax = math.MaxUint64, 0
	if d.err != nil || n == 0 {
		return
	}
	for i := range int(n) {
		s := d.string()
		if i > 0 && s <= d.currencies[i-1] {
			d.fail("currencies out of order")
		}
		if d.err != nil {
			return
		}
		d.currencies = append(d.currencies, s)
	}
	d.used = make([]bool, n)
	d.base = d.upTo(1<<48-1, "time out of range")
}

func (d *decoder) context() CausalContext {
	var cc CausalContext
	for i := range d.count(2) {
		if i > math.MaxUint16 { // or a dot would not fit its number
			d.fail("too many replicas")
		}
		shape := d.upTo(math.MaxUint16<<4|nibbleMax, "region out of range")
		e := contextEntry{replica: Replica{Region: RegionID(shape >> 4), Incarnation: uint32(shape>>2) & 3}}
		if e.replica.Incarnation == 3 {
			e.replica.Incarnation += uint32(d.upTo(math.MaxUint32-3, "incarnation out of range"))
		}
		if shape&2 != 0 {
			e.replica.Lineage = d.string()
			if e.replica.Lineage == "" {
				d.fail("empty lineage")
			}
		}
		if i > 0 && e.replica.Compare(cc.entries[i-1].replica) <= 0 {
			d.fail("replicas out of order")
		}
		if shape&1 != 0 {
			e.ranges = []seqRange{{1, d.upTo(SeqMax, "seq out of range")}}
			if e.ranges[0].hi == 0 {
				d.fail("replica without dots")
			}
		} else {
			e.ranges = d.ranges()
		}
		if d.err != nil {
			return CausalContext{}
		}
		cc.entries = append(cc.entries, e)
	}
	return cc
}

func (d *decoder) ranges() []seqRange {
	n := d.count(2)
	if n == 0 {
		d.fail("replica without dots")
	}
	var out []seqRange
	from := uint64(0)
	for range n {
		gap := d.upTo(SeqMax, "seq out of range")
		if gap == 0 {
			d.fail("ranges not apart")
		}
		lo := from + gap
		hi := lo + d.upTo(SeqMax, "seq out of range")
		if hi > SeqMax {
			d.fail("seq out of range")
		}
		if d.err != nil {
			return nil
		}
		out = append(out, seqRange{lo, hi})
		from = hi + 1
	}
	if isPlain(out) {
		d.fail("plain range not in the short form")
	}
	return out
}

func (r *reader) replica() Replica {
	return Replica{
		Region:      RegionID(r.upTo(math.MaxUint16, "region out of range")),
		Incarnation: uint32(r.upTo(math.MaxUint32, "incarnation out of range")),
		Lineage:     r.string(),
	}
}

func (d *decoder) dot() Dot {
	v := d.uvarint()
	n := uint64(len(d.cc.entries))
	if n == 0 {
		d.fail("dot without a context")
		return Dot{}
	}
	out := Dot{d.cc.entries[v%n].replica, v / n}
	if d.err == nil && !hasSeq(d.cc.entries[v%n].ranges, out.Seq) {
		d.fail("dot outside its context")
	}
	return out
}

// offer builds an offer from a price and what follows it.
func (d *decoder) offer(price int64, currency, ms, logical uint64) Offer {
	if currency >= uint64(len(d.currencies)) {
		d.fail("unknown currency")
		return Offer{}
	}
	d.used[currency] = true
	return Offer{Price: price, Currency: d.currencies[currency], AddedAt: Timestamp(ms<<16 | logical)}
}

// time is the inverse of encoder.time.
func (d *decoder) time() uint64 {
	var v uint64
	for _, b := range d.bytes(d.width) {
		v = v<<8 | uint64(b)
	}
	if d.base+v >= 1<<48 {
		d.fail("time out of range")
		return 0
	}
	d.offsetMin, d.offsetMax = min(d.offsetMin, v), max(d.offsetMax, v)
	return d.base + v
}

func (d *decoder) logical() uint64 { return d.upTo(math.MaxUint16, "time out of range") }

func (d *decoder) wholeOffer() Offer {
	currency, price := d.uvarint(), unzigzag(d.uvarint())
	ms := d.time()
	return d.offer(price, currency, ms, d.logical())
}

func (d *decoder) quantity() uint32 {
	return uint32(d.upTo(math.MaxUint32, "quantity out of range"))
}

func (d *decoder) attributes() Attributes {
	return Attributes{Pairs: d.string(), At: Timestamp(d.uvarint())}
}

func (d *decoder) placement() Placement {
	p := d.byte()
	if p > byte(Saved) {
		d.fail("unknown placement")
	}
	return Placement(p)
}

func (d *decoder) key(last LineKey, flags byte) LineKey {
	k := LineKey{Seller: last.Seller}
	if flags&flagSameSeller == 0 {
		if k.Seller = d.string(); k.Seller == last.Seller {
			d.fail("seller given twice")
		}
	}
	sizes := d.byte()
	shared, n := int(sizes>>4), int(sizes&nibbleMax)
	if n == nibbleMax {
		n += int(d.upTo(stringBytesMax, "string too long"))
	}
	rest := d.bytes(n)
	if shared > len(last.SKU) {
		d.fail("shared part too long")
		return LineKey{}
	}
	k.SKU = last.SKU[:shared] + string(rest)
	if sharedPrefix(last, k) != shared {
		d.fail("SKU not in the shortest form")
	}
	if flags&flagOptions != 0 {
		if k.Options = d.string(); k.Options == "" {
			d.fail("empty options")
		}
	}
	return k
}

func (d *decoder) line(last LineKey) (LineKey, *Line) {
	flags := d.byte()
	k := d.key(last, flags)
	if flags&flagRegular == 0 {
		if flags&flagsOfRegular != 0 {
			d.fail("unknown flags")
		}
		return k, d.irregular()
	}
	p := d.dot()
	q, pl, o := p, p, p
	switch flags >> dotsShift {
	case dotsQuantity:
		o = d.dot()
		pl = o
	case dotsPlacement:
		o = d.dot()
		q = o
	case dotsAll:
		q, pl, o = d.dot(), d.dot(), d.dot()
	}
	if dotsForm(p, q, pl, o) != flags>>dotsShift {
		d.fail("dots not in the shortest form")
	}
	c := Carried{Quantity: d.quantity()}
	if flags&flagSaved != 0 {
		c.Placement = Saved
	}
	price := d.upTo(math.MaxInt64, "price out of range")
	ms := d.time()
	var currency, logical uint64
	if flags&flagRare != 0 {
		if currency, logical = d.uvarint(), d.logical(); currency == 0 && logical == 0 {
			d.fail("offer not in the shortest form")
		}
	}
	c.Offer = d.offer(int64(price), currency, ms, logical)
	l := &regularLine{}
	if flags&flagAttributes != 0 {
		a := d.dot()
		c.Attributes = d.attributes()
		l.Attributes = only(a, c.Attributes)
	}
	l.presence[0], l.quantity[0] = Write[Carried]{p, c}, Write[uint32]{q, c.Quantity}
	l.placement[0], l.offer[0] = Write[Placement]{pl, c.Placement}, Write[Offer]{o, c.Offer}
	l.Presence, l.Quantity = l.presence[:], l.quantity[:]
	l.Placement, l.Offer = l.placement[:], l.offer[:]
	return k, &l.Line
}

// regularLine holds a line and its registers in one piece of memory.
type regularLine struct {
	Line
	presence  [1]Write[Carried]
	quantity  [1]Write[uint32]
	placement [1]Write[Placement]
	offer     [1]Write[Offer]
}

func (d *decoder) irregular() *Line {
	l := &Line{
		Presence: decodeRegister(d, func() Carried {
			return Carried{d.quantity(), d.placement(), d.wholeOffer(), d.attributes()}
		}),
		Quantity:   decodeRegister(d, d.quantity),
		Placement:  decodeRegister(d, d.placement),
		Offer:      decodeRegister(d, d.wholeOffer),
		Attributes: decodeRegister(d, d.attributes),
	}
	if l.isEmpty() {
		d.fail("empty line")
	}
	if regular(l) {
		d.fail("line not in the shortest form")
	}
	return l
}

func decodeRegister[V comparable](d *decoder, value func() V) Register[V] {
	var r Register[V]
	for i := range d.count(2) {
		w := Write[V]{d.dot(), value()}
		if i > 0 && w.Dot.Compare(r[i-1].Dot) <= 0 {
			d.fail("writes out of order")
		}
		if d.err != nil {
			return nil
		}
		r = append(r, w)
	}
	return r
}

// Encode appends the canonical encoding of cc to dst: the causal token's
// and the digest's form.
func (cc CausalContext) Encode(dst []byte) []byte {
	e := encoder{b: append(dst, format), replicas: cc.entries}
	e.context()
	return e.b
}

// DecodeContext is the inverse of CausalContext.Encode, for untrusted bytes.
func DecodeContext(b []byte) (CausalContext, error) {
	d := decoder{reader: reader{b: b}}
	d.format()
	cc := d.context()
	if err := d.end(); err != nil {
		return CausalContext{}, err
	}
	return cc, nil
}
