package crdt

import (
	"encoding/binary"
	"math"
)

// What travels between regions and rests beside a cart: deltas, requests,
// states, rows and intervals, each built from the parts in codec.go.

// Encode appends the canonical encoding of d to dst.
func (d Delta) Encode(dst []byte) []byte {
	dst = append(dst, format)
	f := d.Fragment()
	dst = appendBody(dst, f.Context, f.Lines)
	if len(f.Lines) == 0 { // else the fragment's line names the key
		dst = appendString(dst, d.Key.Seller)
		dst = appendString(dst, d.Key.SKU)
		dst = appendString(dst, d.Key.Options)
	}
	e := encoder{b: dst, replicas: d.Context.entries}
	e.uvarint(uint64(len(d.Dots)))
	for _, dot := range d.Dots {
		e.dot(dot)
	}
	return e.b
}

func (d *decoder) delta() Delta {
	d.format()
	f := d.body()
	if d.err != nil {
		return Delta{}
	}
	out := Delta{Context: d.cc}
	switch len(f.Lines) {
	case 0:
		out.Key = LineKey{d.string(), d.string(), d.string()}
	case 1:
		out.Key, out.Line = f.Lines[0].Key, f.Lines[0].Line
	default:
		d.fail("delta of several lines")
	}
	n := d.count(1)
	if n == 0 {
		d.fail("delta without a dot")
	}
	for i := range n {
		dot := d.dot()
		if i > 0 && dot.Compare(out.Dots[i-1]) <= 0 {
			d.fail("dots out of order")
		}
		if d.err != nil {
			return Delta{}
		}
		out.Dots = append(out.Dots, dot)
	}
	return out
}

// DecodeDelta is the inverse of Delta.Encode, for untrusted bytes.
func DecodeDelta(b []byte) (Delta, error) {
	d := decoder{reader: reader{b: b}}
	out := d.delta()
	if err := d.end(); err != nil {
		return Delta{}, err
	}
	return out, nil
}

// AppendOps appends the encoding of ops to dst.
func AppendOps(b []byte, ops []Op) []byte {
	b = binary.AppendUvarint(b, uint64(len(ops)))
	for _, o := range ops {
		b = appendReplica(b, o.Dot.Replica)
		b = binary.AppendUvarint(b, o.Dot.Seq)
		b = append(b, o.ID[:]...)
		b = binary.BigEndian.AppendUint64(b, o.Fingerprint)
		b = binary.AppendUvarint(b, uint64(o.At))
	}
	return b
}

// opBytesMin is the length of the shortest op: replica 3, seq 1, id 16,
// fingerprint 8, time 1.
const opBytesMin = 29

func (r *reader) ops() []Op {
	var out []Op
	for range r.count(opBytesMin) {
		o := Op{Dot: Dot{r.replica(), r.upTo(SeqMax, "seq out of range")}}
		copy(o.ID[:], r.bytes(len(o.ID)))
		o.Fingerprint = r.uint64()
		o.At = Timestamp(r.uvarint())
		if r.err != nil {
			return nil
		}
		out = append(out, o)
	}
	return out
}

// Encode appends the encoding of s to dst: the form at rest.
func (s State) Encode(dst []byte) []byte {
	return s.AppendRest(s.Cart.Encode(dst))
}

// DecodeState is the inverse of State.Encode, for untrusted bytes.
func DecodeState(b []byte) (State, error) {
	d := decoder{reader: reader{b: b}}
	d.format()
	s := State{Cart: d.body()}
	s.Active = d.active(s.Cart)
	s.Ops = d.ops()
	if err := d.end(); err != nil {
		return State{}, err
	}
	return s, nil
}

// Encode appends the encoding of r to dst.
//
//	row = format seq (last-seq)<<1|aged cart at [age] delta ops
func (r Row) Encode(dst []byte) []byte {
	dst = append(dst, format)
	dst = binary.AppendUvarint(dst, r.Seq)
	aged := uint64(0)
	if r.Age != 0 {
		aged = 1
	}
	dst = binary.AppendUvarint(dst, (r.Last-r.Seq)<<1|aged)
	dst = appendString(dst, r.CartID)
	dst = binary.AppendUvarint(dst, uint64(r.At))
	if aged != 0 {
		dst = binary.AppendUvarint(dst, uint64(r.Age))
	}
	dst = r.Delta.Encode(dst)
	return AppendOps(dst, r.Ops)
}

func (d *decoder) row() Row {
	d.format()
	r := Row{Seq: d.uvarint()}
	span := d.upTo(SeqMax<<1|1, "row seq out of range")
	r.Last = r.Seq + span>>1
	if r.Last < r.Seq || r.Seq == 0 {
		d.fail("row seq out of range")
	}
	r.CartID = d.string()
	r.At = Timestamp(d.uvarint())
	if span&1 != 0 {
		if r.Age = Timestamp(d.upTo(uint64(r.At), "age out of range")); r.Age == 0 {
			d.fail("age given that is none")
		}
	}
	r.Delta = d.delta()
	r.Ops = d.ops()
	return r
}

// DecodeRow is the inverse of Row.Encode, for untrusted bytes.
func DecodeRow(b []byte) (Row, error) {
	d := decoder{reader: reader{b: b}}
	r := d.row()
	if err := d.end(); err != nil {
		return Row{}, err
	}
	return r, nil
}

// Encode appends the encoding of iv to dst.
func (iv Interval) Encode(dst []byte) []byte {
	dst = append(dst, format)
	dst = binary.AppendUvarint(dst, uint64(iv.Stream.Region))
	dst = binary.AppendUvarint(dst, uint64(iv.Stream.Incarnation))
	dst = binary.AppendUvarint(dst, uint64(iv.Stream.Shard))
	dst = binary.AppendUvarint(dst, iv.Lo)
	dst = binary.AppendUvarint(dst, iv.Hi-iv.Lo)
	dst = binary.AppendUvarint(dst, uint64(len(iv.Rows)))
	for _, r := range iv.Rows {
		dst = r.Encode(dst)
	}
	return dst
}

// rowBytesMin is less than the length of the shortest row: format, seq,
// last, cart id, time, delta's format and context, ops.
const rowBytesMin = 8

// DecodeInterval is the inverse of Interval.Encode, for untrusted bytes. It
// checks that the rows lie inside the interval, in order.
func DecodeInterval(b []byte) (Interval, error) {
	d := decoder{reader: reader{b: b}}
	d.format()
	iv := Interval{Stream: Stream{
		Region:      RegionID(d.upTo(math.MaxUint16, "region out of range")),
		Incarnation: uint32(d.upTo(math.MaxUint32, "incarnation out of range")),
		Shard:       uint32(d.upTo(math.MaxUint32, "shard out of range")),
	}}
	iv.Lo = d.uvarint()
	iv.Hi = iv.Lo + d.uvarint()
	if iv.Hi < iv.Lo {
		d.fail("interval out of range")
	}
	last := iv.Lo
	for range d.count(rowBytesMin) {
		r := d.row()
		if d.err == nil && (r.Seq <= last || r.Last > iv.Hi) {
			d.fail("row outside its interval")
		}
		if d.err != nil {
			return Interval{}, d.err
		}
		iv.Rows = append(iv.Rows, r)
		last = r.Seq
	}
	if err := d.end(); err != nil {
		return Interval{}, err
	}
	return iv, nil
}
