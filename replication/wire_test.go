package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/samecart/samecart/crdt"
)

// traffic is an interval of n rows over carts carts, as shops make them.
func traffic(n, carts int) crdt.Interval {
	at := crdt.TimestampAt(testNow.UnixMilli())
	w := crdt.Writer{Replica: crdt.Replica{Region: 1, Incarnation: 1}, At: at}
	state := make([]*crdt.Cart, carts)
	rng := rand.New(rand.NewPCG(1, 1)) // op ids are digests: nothing to compress
	iv := crdt.Interval{Stream: crdt.Stream{Region: 1, Incarnation: 1}, Hi: uint64(n)}
	for i := range n {
		j := i % carts
		if state[j] == nil {
			state[j] = &crdt.Cart{}
		}
		k := crdt.LineKey{Seller: "seller-1", SKU: fmt.Sprintf("SKU-%d", i*7%50)}
		d := state[j].Add(w, k, 1, crdt.Offer{Price: 2999, Currency: "USD", AddedAt: at + crdt.Timestamp(i)<<16}, false)
		state[j] = state[j].Apply(d)
		seq := uint64(i + 1)
		iv.Rows = append(iv.Rows, crdt.Row{Seq: seq, Last: seq, CartID: fmt.Sprintf("cart:user-%d", 1000+j), At: at, Delta: d,
			Ops: []crdt.Op{{Dot: d.Dots[0], ID: opID(rng), Fingerprint: rng.Uint64(), At: at}}})
	}
	return iv
}

func opID(rng *rand.Rand) (id crdt.OpID) {
	binary.BigEndian.PutUint64(id[:], rng.Uint64())
	binary.BigEndian.PutUint64(id[8:], rng.Uint64())
	return id
}

func TestCodecRoundTrip(t *testing.T) {
	c, err := NewCodec(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	for _, n := range []int{1, 3, 100, 2000} {
		iv := traffic(n, 20)
		data, compressed := c.Encode(iv)
		got, err := c.Decode(data, compressed)
		if err != nil || !bytes.Equal(got.Encode(nil), iv.Encode(nil)) {
			t.Fatalf("%d rows: %v", n, err)
		}
		if compressed != (n > 1 && len(iv.Encode(nil)) >= compressMin) {
			t.Errorf("%d rows: compressed is %v", n, compressed)
		}
	}
}

func TestCodecRefusesBombs(t *testing.T) {
	c, err := NewCodec(64 << 10)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"bomb":       enc.EncodeAll(make([]byte, 256<<20), nil),
		"not zstd":   []byte("hello"),
		"not a row":  enc.EncodeAll([]byte("hello"), nil),
		"just above": enc.EncodeAll(make([]byte, 64<<10+1), nil),
	} {
		if _, err := c.Decode(data, true); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := c.Decode(make([]byte, 64<<10+1), false); !errors.Is(err, ErrRefused) {
		t.Errorf("plain: got %v", err)
	}
	for _, n := range []int{0, 1 << 30} {
		if _, err := NewCodec(n); err == nil {
			t.Errorf("NewCodec(%d) was taken", n)
		}
	}
}

// BenchmarkGossip takes rows the whole way: Peer, encoding, zstd, decoding,
// Validate. rows/s is of log rows; wire-B/row what each takes compressed.
func BenchmarkGossip(b *testing.B) {
	for _, c := range []struct {
		name  string
		carts int
	}{{"spread", 4000}, {"hot", 40}} {
		b.Run(c.name, func(b *testing.B) { benchmarkGossip(b, c.carts) })
	}
}

func benchmarkGossip(b *testing.B, carts int) {
	codec, err := NewCodec(4 << 20)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(codec.Close)
	const n = 8000
	log := modelLog{stream: crdt.Stream{Region: 1, Incarnation: 1}, all: traffic(n, carts).Rows}
	limits := testLimits()
	wire := 0
	b.ReportAllocs()
	for b.Loop() {
		now := time.UnixMilli(1e12)
		p := NewPeer(log.stream, 2, DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
		out := p.Step(now, Appended{n}, nil)
		for i := 0; i < len(out); i++ {
			switch m := out[i].(type) {
			case Open:
				out = p.Step(now, Acknowledged{m.Gen, Ack{}}, out)
			case ReadLog:
				iv, ok := log.read(m.After, m.BytesMax)
				out = p.Step(now, Read{m.ID, iv, ok, nil}, out)
			case Send:
				data, compressed := codec.Encode(m.Interval)
				wire += len(data)
				iv, err := codec.Decode(data, compressed)
				if err == nil {
					_, err = Validate(iv, 1, limits)
				}
				if err != nil {
					b.Fatal(err)
				}
				out = p.Step(now, Sent{m.Gen, len(data)}, out)
				out = p.Step(now, Acknowledged{m.Gen, Ack{Cursor: iv.Hi}}, out)
			}
		}
		if p.acked != n {
			b.Fatalf("acked %d", p.acked)
		}
	}
	rows := float64(n) * float64(b.N)
	b.ReportMetric(rows/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(wire)/rows, "wire-B/row")
}

// BenchmarkStep is one edit on an idle peer: append, read, send, ack.
func BenchmarkStep(b *testing.B) {
	row := traffic(1, 1).Rows[0]
	s := crdt.Stream{Region: 1, Incarnation: 1}
	now := time.UnixMilli(1e12)
	p := NewPeer(s, 2, DefaultConfig(), rand.New(rand.NewPCG(1, 1)))
	out := p.Step(now, Appended{0}, nil)
	out = p.Step(now, Acknowledged{1, Ack{}}, out)
	b.ReportAllocs()
	for seq := uint64(1); b.Loop(); seq++ {
		row.Seq, row.Last = seq, seq
		out = p.Step(now, Appended{seq}, out[:0])
		read := out[0].(ReadLog)
		out = p.Step(now, Read{read.ID, crdt.Interval{Stream: s, Lo: seq - 1, Hi: seq, Rows: []crdt.Row{row}}, true, nil}, out)
		out = p.Step(now, Sent{1, 1}, out)
		out = p.Step(now, Acknowledged{1, Ack{Cursor: seq}}, out)
	}
	if p.acked != p.last {
		b.Fatal("not acked")
	}
}
