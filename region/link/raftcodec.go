package link

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// raftOp says which RPC a raft frame is.
type raftOp uint8

const (
	opHeartbeat raftOp = iota + 1
	opAppend
	opVote
	opPreVote
	opTimeoutNow
	opSnapshot
)

// envelope heads every raft request: the safety rule hangs on it.
type envelope struct {
	op     raftOp
	group  uint32
	target raft.ServerID
	body   []byte
}

func appendEnvelope(dst []byte, op raftOp, group uint32, target raft.ServerID) []byte {
	dst = append(dst, byte(op))
	dst = binary.AppendUvarint(dst, uint64(group))
	return appendString(dst, string(target))
}

func decodeEnvelope(b []byte) (envelope, error) {
	r := reader{b: b}
	e := envelope{op: raftOp(r.byte())}
	group := r.uvarint()
	e.target = raft.ServerID(r.bytes())
	e.body = r.rest()
	if r.failed || group > 1<<32-1 || e.op < opHeartbeat || e.op > opSnapshot {
		return envelope{}, fmt.Errorf("%w: raft request of %d bytes", errFrame, len(b))
	}
	e.group = uint32(group)
	return e, nil
}

// isHeartbeat tells the AppendEntries that only say "I lead": raft answers
// them without its main loop, so a slow disk starts no election.
func isHeartbeat(r *raft.AppendEntriesRequest) bool {
	return r.Term != 0 && len(r.Addr)+len(*leaderOf(r)) > 0 && r.PrevLogEntry == 0 && r.PrevLogTerm == 0 &&
		len(r.Entries) == 0 && r.LeaderCommitIndex == 0
}

// leaderOf and candidateOf name the fields that RPCHeader.Addr has replaced.
// Raft still sets and, without a header, reads them, so they are carried.
func leaderOf(q *raft.AppendEntriesRequest) *[]byte {
	return &q.Leader //nolint:staticcheck // carried as long as raft sets it
}

func candidateOf(q *raft.RequestVoteRequest) *[]byte {
	return &q.Candidate //nolint:staticcheck // carried as long as raft sets it
}

func appendHeader(dst []byte, h *raft.RPCHeader) []byte {
	dst = binary.AppendVarint(dst, int64(h.ProtocolVersion))
	dst = appendString(dst, h.ID)
	return appendString(dst, h.Addr)
}

func (r *reader) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersion(r.varint()), ID: r.bytes(), Addr: r.bytes()}
}

func (r *reader) bool() bool { return r.byte() != 0 }

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// check ends a decoding: nothing failed, nothing is left.
func (r *reader) check(what string) error {
	if r.failed || len(r.b) > 0 {
		return fmt.Errorf("%w: %s", errFrame, what)
	}
	return nil
}

// entryBytesMin and entryOverhead bound the encoding of an entry around its
// data and extensions.
const (
	entryBytesMin = 6
	entryOverhead = 3*binary.MaxVarintLen64 + 1 + 2*binary.MaxVarintLen64
)

func appendEntry(dst []byte, l *raft.Log) []byte {
	dst = binary.AppendUvarint(dst, l.Index)
	dst = binary.AppendUvarint(dst, l.Term)
	dst = append(dst, byte(l.Type))
	dst = appendString(dst, l.Data)
	dst = appendString(dst, l.Extensions)
	var at int64 // 0 stands for the zero time
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	return binary.AppendVarint(dst, at)
}

func (r *reader) entry(l *raft.Log) {
	l.Index = r.uvarint()
	l.Term = r.uvarint()
	l.Type = raft.LogType(r.byte())
	l.Data = r.bytes()
	l.Extensions = r.bytes()
	if at := r.varint(); at != 0 {
		l.AppendedAt = time.Unix(0, at).UTC()
	}
}

func appendAppendRequest(dst []byte, q *raft.AppendEntriesRequest) []byte {
	dst = appendHeader(dst, &q.RPCHeader)
	dst = binary.AppendUvarint(dst, q.Term)
	leader := *leaderOf(q)
	same := string(leader) == string(q.Addr) // as raft sets it
	dst = appendBool(dst, same)
	if !same {
		dst = appendString(dst, leader)
	}
	dst = binary.AppendUvarint(dst, q.PrevLogEntry)
	dst = binary.AppendUvarint(dst, q.PrevLogTerm)
	dst = binary.AppendUvarint(dst, q.LeaderCommitIndex)
	dst = binary.AppendUvarint(dst, uint64(len(q.Entries)))
	for _, l := range q.Entries {
		dst = appendEntry(dst, l)
	}
	return dst
}

func decodeAppendRequest(b []byte) (*raft.AppendEntriesRequest, error) {
	r := reader{b: b}
	q := &raft.AppendEntriesRequest{RPCHeader: r.header(), Term: r.uvarint()}
	if r.bool() {
		*leaderOf(q) = q.Addr
	} else {
		*leaderOf(q) = r.bytes()
	}
	q.PrevLogEntry = r.uvarint()
	q.PrevLogTerm = r.uvarint()
	q.LeaderCommitIndex = r.uvarint()
	n := r.uvarint()
	if n > uint64(len(r.b)/entryBytesMin) {
		return nil, fmt.Errorf("%w: AppendEntries: %d entries in %d bytes", errFrame, n, len(r.b))
	}
	if n > 0 {
		logs := make([]raft.Log, n)
		q.Entries = make([]*raft.Log, n)
		for i := range logs {
			r.entry(&logs[i])
			q.Entries[i] = &logs[i]
		}
	}
	return q, r.check("AppendEntries")
}

func appendAppendResponse(dst []byte, p *raft.AppendEntriesResponse) []byte {
	dst = appendHeader(dst, &p.RPCHeader)
	dst = binary.AppendUvarint(dst, p.Term)
	dst = binary.AppendUvarint(dst, p.LastLog)
	dst = appendBool(dst, p.Success)
	return appendBool(dst, p.NoRetryBackoff)
}

func decodeAppendResponse(b []byte, p *raft.AppendEntriesResponse) error {
	r := reader{b: b}
	*p = raft.AppendEntriesResponse{RPCHeader: r.header(), Term: r.uvarint(), LastLog: r.uvarint(), Success: r.bool(), NoRetryBackoff: r.bool()}
	return r.check("AppendEntries answer")
}

func appendVoteRequest(dst []byte, q *raft.RequestVoteRequest) []byte {
	dst = appendHeader(dst, &q.RPCHeader)
	dst = binary.AppendUvarint(dst, q.Term)
	dst = appendString(dst, *candidateOf(q))
	dst = binary.AppendUvarint(dst, q.LastLogIndex)
	dst = binary.AppendUvarint(dst, q.LastLogTerm)
	return appendBool(dst, q.LeadershipTransfer)
}

func decodeVoteRequest(b []byte) (*raft.RequestVoteRequest, error) {
	r := reader{b: b}
	q := &raft.RequestVoteRequest{RPCHeader: r.header(), Term: r.uvarint()}
	*candidateOf(q) = r.bytes()
	q.LastLogIndex = r.uvarint()
	q.LastLogTerm = r.uvarint()
	q.LeadershipTransfer = r.bool()
	return q, r.check("RequestVote")
}

func appendVoteResponse(dst []byte, p *raft.RequestVoteResponse) []byte {
	dst = appendHeader(dst, &p.RPCHeader)
	dst = binary.AppendUvarint(dst, p.Term)
	dst = appendString(dst, p.Peers)
	return appendBool(dst, p.Granted)
}

func decodeVoteResponse(b []byte, p *raft.RequestVoteResponse) error {
	r := reader{b: b}
	*p = raft.RequestVoteResponse{RPCHeader: r.header(), Term: r.uvarint(), Peers: r.bytes(), Granted: r.bool()}
	return r.check("RequestVote answer")
}

func appendPreVoteRequest(dst []byte, q *raft.RequestPreVoteRequest) []byte {
	dst = appendHeader(dst, &q.RPCHeader)
	dst = binary.AppendUvarint(dst, q.Term)
	dst = binary.AppendUvarint(dst, q.LastLogIndex)
	return binary.AppendUvarint(dst, q.LastLogTerm)
}

func decodePreVoteRequest(b []byte) (*raft.RequestPreVoteRequest, error) {
	r := reader{b: b}
	q := &raft.RequestPreVoteRequest{RPCHeader: r.header(), Term: r.uvarint(), LastLogIndex: r.uvarint(), LastLogTerm: r.uvarint()}
	return q, r.check("RequestPreVote")
}

func appendPreVoteResponse(dst []byte, p *raft.RequestPreVoteResponse) []byte {
	dst = appendHeader(dst, &p.RPCHeader)
	dst = binary.AppendUvarint(dst, p.Term)
	return appendBool(dst, p.Granted)
}

func decodePreVoteResponse(b []byte, p *raft.RequestPreVoteResponse) error {
	r := reader{b: b}
	*p = raft.RequestPreVoteResponse{RPCHeader: r.header(), Term: r.uvarint(), Granted: r.bool()}
	return r.check("RequestPreVote answer")
}

func appendTimeoutNowRequest(dst []byte, q *raft.TimeoutNowRequest) []byte {
	return appendHeader(dst, &q.RPCHeader)
}

func decodeTimeoutNowRequest(b []byte) (*raft.TimeoutNowRequest, error) {
	r := reader{b: b}
	q := &raft.TimeoutNowRequest{RPCHeader: r.header()}
	return q, r.check("TimeoutNow")
}

func appendTimeoutNowResponse(dst []byte, p *raft.TimeoutNowResponse) []byte {
	return appendHeader(dst, &p.RPCHeader)
}

func decodeTimeoutNowResponse(b []byte, p *raft.TimeoutNowResponse) error {
	r := reader{b: b}
	*p = raft.TimeoutNowResponse{RPCHeader: r.header()}
	return r.check("TimeoutNow answer")
}

func appendSnapshotRequest(dst []byte, q *raft.InstallSnapshotRequest) []byte {
	dst = appendHeader(dst, &q.RPCHeader)
	dst = binary.AppendVarint(dst, int64(q.SnapshotVersion))
	dst = binary.AppendUvarint(dst, q.Term)
	dst = appendString(dst, q.Leader)
	dst = binary.AppendUvarint(dst, q.LastLogIndex)
	dst = binary.AppendUvarint(dst, q.LastLogTerm)
	dst = appendString(dst, q.Peers)
	dst = appendString(dst, q.Configuration)
	dst = binary.AppendUvarint(dst, q.ConfigurationIndex)
	return binary.AppendVarint(dst, q.Size)
}

func decodeSnapshotRequest(b []byte) (*raft.InstallSnapshotRequest, error) {
	r := reader{b: b}
	q := &raft.InstallSnapshotRequest{RPCHeader: r.header(), SnapshotVersion: raft.SnapshotVersion(r.varint()), Term: r.uvarint(),
		Leader: r.bytes(), LastLogIndex: r.uvarint(), LastLogTerm: r.uvarint(), Peers: r.bytes(),
		Configuration: r.bytes(), ConfigurationIndex: r.uvarint(), Size: r.varint()}
	if q.Size < 0 {
		r.fail()
	}
	return q, r.check("InstallSnapshot")
}

func appendSnapshotResponse(dst []byte, p *raft.InstallSnapshotResponse) []byte {
	dst = appendHeader(dst, &p.RPCHeader)
	dst = binary.AppendUvarint(dst, p.Term)
	return appendBool(dst, p.Success)
}

func decodeSnapshotResponse(b []byte, p *raft.InstallSnapshotResponse) error {
	r := reader{b: b}
	*p = raft.InstallSnapshotResponse{RPCHeader: r.header(), Term: r.uvarint(), Success: r.bool()}
	return r.check("InstallSnapshot answer")
}

// decodeCommand decodes the request behind an envelope.
func decodeCommand(op raftOp, b []byte) (any, error) {
	switch op {
	case opHeartbeat:
		q, err := decodeAppendRequest(b)
		if err == nil && !isHeartbeat(q) {
			err = fmt.Errorf("%w: a heartbeat that carries more", errFrame)
		}
		return q, err
	case opAppend:
		return decodeAppendRequest(b)
	case opVote:
		return decodeVoteRequest(b)
	case opPreVote:
		return decodePreVoteRequest(b)
	case opTimeoutNow:
		return decodeTimeoutNowRequest(b)
	case opSnapshot:
		return decodeSnapshotRequest(b)
	}
	return nil, fmt.Errorf("%w: raft operation %d", errFrame, op)
}

// appendAnswer encodes what raft answered. A type this code does not know is
// a newer raft and a bug here.
func appendAnswer(dst []byte, answer any) []byte {
	switch p := answer.(type) {
	case *raft.AppendEntriesResponse:
		return appendAppendResponse(dst, p)
	case *raft.RequestVoteResponse:
		return appendVoteResponse(dst, p)
	case *raft.RequestPreVoteResponse:
		return appendPreVoteResponse(dst, p)
	case *raft.TimeoutNowResponse:
		return appendTimeoutNowResponse(dst, p)
	case *raft.InstallSnapshotResponse:
		return appendSnapshotResponse(dst, p)
	}
	panic(fmt.Sprintf("link: raft answered with a %T", answer))
}

// splitEntries cuts q into requests whose encodings fit bytesMax, each valid
// on its own: it follows the one before, and its commit index does not pass
// its own last entry, so a follower's stale suffix beyond it is not committed.
// A single entry that does not fit is an error.
func splitEntries(q *raft.AppendEntriesRequest, bytesMax int) ([]*raft.AppendEntriesRequest, error) {
	budget := bytesMax - 8*binary.MaxVarintLen64 - len(q.ID) - len(q.Addr) - len(*leaderOf(q))
	var parts []*raft.AppendEntriesRequest
	start, size := 0, 0
	cut := func(end int) {
		part := *q
		part.Entries = q.Entries[start:end]
		if start > 0 {
			part.PrevLogEntry, part.PrevLogTerm = q.Entries[start-1].Index, q.Entries[start-1].Term
		}
		if end < len(q.Entries) {
			part.LeaderCommitIndex = min(q.LeaderCommitIndex, q.Entries[end-1].Index)
		}
		parts = append(parts, &part)
		start, size = end, 0
	}
	for i, l := range q.Entries {
		n := len(l.Data) + len(l.Extensions) + entryOverhead
		if n > budget {
			return nil, fmt.Errorf("%w: raft entry %d of %d bytes, bound %d: propose smaller entries or raise the frame bound", ErrTooLarge, l.Index, n, budget)
		}
		if size+n > budget {
			cut(i)
		}
		size += n
	}
	if start == 0 {
		return []*raft.AppendEntriesRequest{q}, nil
	}
	cut(len(q.Entries))
	return parts, nil
}
