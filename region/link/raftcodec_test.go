package link

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

// fill gives every field of v a value that is not zero, so that a field which
// a newer raft adds and the codec does not know breaks the round trip.
func fill(t testing.TB, v reflect.Value, n *int) {
	t.Helper()
	*n++
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(1700000000, int64(*n)).UTC()))
			return
		}
		for i := range v.NumField() {
			fill(t, v.Field(i), n)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 3, 3))
		for i := range 3 {
			fill(t, v.Index(i), n)
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8, reflect.Uint64:
		v.SetUint(uint64(*n%250 + 1))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	default:
		t.Fatalf("a raft message has a %s: teach the codec and this test", v.Type())
	}
}

func filled[T any](t testing.TB) *T {
	t.Helper()
	v, n := new(T), 0
	fill(t, reflect.ValueOf(v).Elem(), &n)
	return v
}

func same[T any](t *testing.T, want *T, got *T, err error) {
	t.Helper()
	if err != nil || !reflect.DeepEqual(want, got) {
		t.Errorf("%T: %+v became %+v, %v", want, want, got, err)
	}
}

func TestRaftMessagesRoundTrip(t *testing.T) {
	{
		q := filled[raft.AppendEntriesRequest](t)
		got, err := decodeAppendRequest(appendAppendRequest(nil, q))
		same(t, q, got, err)
		*leaderOf(q) = q.Addr
		q.Entries[1].AppendedAt = time.Time{}
		got, err = decodeAppendRequest(appendAppendRequest(nil, q))
		same(t, q, got, err)
	}
	{
		q := filled[raft.RequestVoteRequest](t)
		got, err := decodeVoteRequest(appendVoteRequest(nil, q))
		same(t, q, got, err)
	}
	{
		q := filled[raft.RequestPreVoteRequest](t)
		got, err := decodePreVoteRequest(appendPreVoteRequest(nil, q))
		same(t, q, got, err)
	}
	{
		q := filled[raft.TimeoutNowRequest](t)
		got, err := decodeTimeoutNowRequest(appendTimeoutNowRequest(nil, q))
		same(t, q, got, err)
	}
	{
		q := filled[raft.InstallSnapshotRequest](t)
		got, err := decodeSnapshotRequest(appendSnapshotRequest(nil, q))
		same(t, q, got, err)
	}
	{
		p, got := filled[raft.AppendEntriesResponse](t), filled[raft.AppendEntriesResponse](t)
		same(t, p, got, decodeAppendResponse(appendAnswer(nil, p), got))
		// An answer leaves nothing of the one before: raft reuses it.
		same(t, &raft.AppendEntriesResponse{}, got, decodeAppendResponse(appendAnswer(nil, &raft.AppendEntriesResponse{}), got))
	}
	{
		p, got := filled[raft.RequestVoteResponse](t), new(raft.RequestVoteResponse)
		same(t, p, got, decodeVoteResponse(appendAnswer(nil, p), got))
	}
	{
		p, got := filled[raft.RequestPreVoteResponse](t), new(raft.RequestPreVoteResponse)
		same(t, p, got, decodePreVoteResponse(appendAnswer(nil, p), got))
	}
	{
		p, got := filled[raft.TimeoutNowResponse](t), new(raft.TimeoutNowResponse)
		same(t, p, got, decodeTimeoutNowResponse(appendAnswer(nil, p), got))
	}
	{
		p, got := filled[raft.InstallSnapshotResponse](t), new(raft.InstallSnapshotResponse)
		same(t, p, got, decodeSnapshotResponse(appendAnswer(nil, p), got))
	}
	if _, err := decodeCommand(99, nil); !errors.Is(err, errFrame) {
		t.Errorf("unknown operation: %v", err)
	}
}

func TestUnknownAnswerPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	appendAnswer(nil, "what")
}

// TestEveryCutIsNoticed: no prefix of a message decodes, and nothing follows.
func TestEveryCutIsNoticed(t *testing.T) {
	for op, b := range sampleRequests() {
		if _, err := decodeCommand(op, b); err != nil {
			t.Errorf("operation %d: %v", op, err)
		}
		for i := range b {
			if _, err := decodeCommand(op, b[:i]); !errors.Is(err, errFrame) {
				t.Errorf("operation %d cut at %d of %d: %v", op, i, len(b), err)
			}
		}
		if _, err := decodeCommand(op, append(bytes.Clone(b), 0)); !errors.Is(err, errFrame) {
			t.Errorf("operation %d with a byte more: %v", op, err)
		}
	}
	// A count of entries beyond the bytes there are must not be believed.
	q := appendAppendRequest(nil, &raft.AppendEntriesRequest{Term: 1})
	q[len(q)-1] = 100
	if _, err := decodeAppendRequest(q); !errors.Is(err, errFrame) {
		t.Errorf("err %v", err)
	}
}

func sampleRequests() map[raftOp][]byte {
	h := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("s1"), Addr: []byte("r/1")}
	return map[raftOp][]byte{
		opHeartbeat: appendAppendRequest(nil, &raft.AppendEntriesRequest{RPCHeader: h, Term: 4}),
		opAppend: appendAppendRequest(nil, &raft.AppendEntriesRequest{RPCHeader: h, Term: 4, PrevLogEntry: 8,
			Entries: []*raft.Log{{Index: 9, Term: 4, Data: []byte("data"), AppendedAt: time.Unix(1700000000, 0)}}}),
		opVote:       appendVoteRequest(nil, &raft.RequestVoteRequest{RPCHeader: h, Term: 4, LastLogIndex: 3}),
		opPreVote:    appendPreVoteRequest(nil, &raft.RequestPreVoteRequest{RPCHeader: h, Term: 4}),
		opTimeoutNow: appendTimeoutNowRequest(nil, &raft.TimeoutNowRequest{RPCHeader: h}),
		opSnapshot:   appendSnapshotRequest(nil, &raft.InstallSnapshotRequest{RPCHeader: h, Term: 4, Size: 1 << 20}),
	}
}

func entries(from uint64, sizes ...int) []*raft.Log {
	var out []*raft.Log
	for i, n := range sizes {
		out = append(out, &raft.Log{Index: from + uint64(i), Term: 2 + uint64(i)/2, Data: bytes.Repeat([]byte{byte(i)}, n)})
	}
	return out
}

// TestSplitEntries: the parts follow one another, fit, carry all, and none
// lets a follower commit beyond what it carries.
func TestSplitEntries(t *testing.T) {
	q := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ID: []byte("s1"), Addr: []byte("r/1")},
		Term:      5, PrevLogEntry: 10, PrevLogTerm: 1, LeaderCommitIndex: 14,
		Entries: entries(11, 300, 300, 900, 10, 10, 700, 10),
	}
	parts, err := splitEntries(q, 1200)
	if err != nil || len(parts) < 3 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	prev, prevTerm := q.PrevLogEntry, q.PrevLogTerm
	var all []*raft.Log
	for i, p := range parts {
		if p.PrevLogEntry != prev || p.PrevLogTerm != prevTerm || p.Term != q.Term {
			t.Errorf("part %d follows %d/%d, want %d/%d", i, p.PrevLogEntry, p.PrevLogTerm, prev, prevTerm)
		}
		last := p.Entries[len(p.Entries)-1]
		prev, prevTerm = last.Index, last.Term
		if i < len(parts)-1 && p.LeaderCommitIndex > last.Index {
			t.Errorf("part %d commits %d beyond its last entry %d", i, p.LeaderCommitIndex, last.Index)
		}
		if n := len(appendAppendRequest(nil, p)); n > 1200 {
			t.Errorf("part %d has %d bytes", i, n)
		}
		all = append(all, p.Entries...)
	}
	if !reflect.DeepEqual(all, q.Entries) {
		t.Error("the parts do not carry all entries once")
	}
	if got := parts[len(parts)-1].LeaderCommitIndex; got != 14 {
		t.Errorf("the last part commits %d, want 14", got)
	}
	if _, err := splitEntries(&raft.AppendEntriesRequest{Entries: entries(1, 2000)}, 1200); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one large entry: %v, want ErrTooLarge", err)
	}
	if parts, err := splitEntries(q, 1<<20); err != nil || len(parts) != 1 || parts[0] != q {
		t.Errorf("what fits is not split: %d parts, %v", len(parts), err)
	}
}

func benchRequest(n int) *raft.AppendEntriesRequest {
	q := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: 3, ID: []byte("0191d4c5-8f7e"), Addr: []byte("us-east/1")},
		Term:      12, PrevLogEntry: 1_000_000, PrevLogTerm: 12, LeaderCommitIndex: 999_990,
	}
	*leaderOf(q) = q.Addr // as raft does
	for i := range n {
		q.Entries = append(q.Entries, &raft.Log{Index: 1_000_001 + uint64(i), Term: 12, Data: make([]byte, 300), AppendedAt: time.Unix(1700000000, 5)})
	}
	return q
}

// BenchmarkAppendEntriesCodec compares the codec here with the one of raft's
// own network transport, encoding and decoding one request.
func BenchmarkAppendEntriesCodec(b *testing.B) {
	for _, n := range []int{0, 1, 64} {
		q := benchRequest(n)
		b.Run(fmt.Sprintf("link/entries=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				buf = appendAppendRequest(buf[:0], q)
				if _, err := decodeAppendRequest(buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(buf)), "bytes")
		})
		b.Run(fmt.Sprintf("msgpack/entries=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var buf bytes.Buffer
			enc := codec.NewEncoder(&buf, &codec.MsgpackHandle{})
			dec := codec.NewDecoder(&buf, &codec.MsgpackHandle{})
			size := 0
			for b.Loop() {
				buf.Reset()
				if err := enc.Encode(q); err != nil {
					b.Fatal(err)
				}
				size = buf.Len()
				var got raft.AppendEntriesRequest
				if err := dec.Decode(&got); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(size), "bytes")
		})
	}
}
