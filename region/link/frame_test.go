package link

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func frames() []frame {
	return []frame{
		{typ: frameRequest, id: 1 << 63, kind: 200, flags: 1, timeout: 1500 * time.Microsecond, body: []byte("payload")},
		{typ: frameRequest, id: 1, kind: 16, body: []byte{}},
		{typ: frameResponse, id: 3, status: statusOK, body: []byte("answer")},
		{typ: frameResponse, id: 3, status: statusError, body: encodeError(&Error{Code: 65535, Message: "m", Detail: []byte{0}})},
		{typ: frameCancel, id: 300},
		{typ: frameChunk, id: 4, body: []byte("piece")},
		{typ: frameCredit, id: 5, count: 1 << 20},
		{typ: framePing},
		{typ: framePong},
	}
}

func TestFrameRoundTrip(t *testing.T) {
	var all []byte
	for _, f := range frames() {
		all = appendFrame(all, &f)
	}
	r := bufio.NewReader(bytes.NewReader(all))
	for _, want := range frames() {
		got, err := readFrame(r, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(want.body) == 0 && len(got.body) == 0 {
			want.body, got.body = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	if _, err := readFrame(r, 1<<20); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v, want EOF", err)
	}
}

func TestFrameOverheadIsABound(t *testing.T) {
	f := frame{typ: frameRequest, id: 1<<64 - 1, kind: 255, flags: 255, timeout: timeoutMax}
	if n := len(appendFrame(nil, &f)) - lengthBytes; n > frameOverhead {
		t.Errorf("%d bytes around a body, bound %d", n, frameOverhead)
	}
	if got := timeoutMicros(1); got != 1 {
		t.Errorf("1 ns became %d µs, want it rounded up", got)
	}
	if got := timeoutMicros(-1); got != 0 {
		t.Errorf("no limit became %d µs", got)
	}
}

func TestMalformedFrames(t *testing.T) {
	for name, b := range map[string][]byte{
		"empty":            {},
		"unknown type":     {99},
		"status":           {byte(frameResponse), 1, 200},
		"cut request":      {byte(frameRequest), 1},
		"cut id":           {byte(frameCancel), 0x80},
		"endless id":       append([]byte{byte(frameCancel)}, bytes.Repeat([]byte{0xff}, 12)...),
		"ping with a body": {byte(framePing), 1},
		"cancel and more":  {byte(frameCancel), 1, 1},
	} {
		if f, err := decodeFrame(b); !errors.Is(err, errFrame) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	for _, n := range []uint32{0, 1025, 1<<32 - 1} {
		b := binary.BigEndian.AppendUint32(nil, n)
		if _, err := readFrame(bufio.NewReader(bytes.NewReader(append(b, make([]byte, 2048)...))), 1024); !errors.Is(err, errFrame) {
			t.Errorf("length %d: %v", n, err)
		}
	}
	if _, err := decodeError([]byte{1}); !errors.Is(err, errFrame) {
		t.Errorf("cut error: %v", err)
	}
	if e, err := decodeError(encodeError(&Error{Message: strings.Repeat("x", 1<<20)})); err != nil || len(e.Message) != messageBytesMax {
		t.Errorf("long message: %d bytes, %v", len(e.Message), err)
	}
}

// TestListenerSurvivesGarbage: whatever follows the hello, the connection
// ends and the node keeps serving.
func TestListenerSurvivesGarbage(t *testing.T) {
	raftFrame := func(op raftOp, body []byte) []byte {
		f := frame{typ: frameRequest, id: 1, kind: kindRaft, body: append(appendEnvelope(nil, op, 7, "s2"), body...)}
		return appendFrame(nil, &f)
	}
	snapshot := raftFrame(opSnapshot, appendSnapshotRequest(nil, &raft.InstallSnapshotRequest{Size: 10}))
	for name, b := range map[string][]byte{
		"oversize":       {0xff, 0xff, 0xff, 0xff, 1},
		"zero":           {0, 0, 0, 0},
		"type":           {0, 0, 0, 1, 99},
		"dialer's":       appendFrame(nil, &frame{typ: frameResponse, id: 1}),
		"envelope":       appendFrame(nil, &frame{typ: frameRequest, id: 1, kind: kindRaft, body: []byte{1}}),
		"vote":           raftFrame(opVote, []byte{0xff}),
		"not heartbeat":  raftFrame(opHeartbeat, appendAppendRequest(nil, &raft.AppendEntriesRequest{Term: 1, LeaderCommitIndex: 3})),
		"snapshot":       raftFrame(opSnapshot, []byte{1, 2}),
		"size":           raftFrame(opSnapshot, appendSnapshotRequest(nil, &raft.InstallSnapshotRequest{Size: -1})),
		"piece too long": append(snapshot, appendFrame(nil, &frame{typ: frameChunk, id: 1, body: make([]byte, 11)})...),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				c.add(t, "r/2", nil, func(m *Mux) {
					m.Raft(7, "s2", "r/2").SetHeartbeatHandler(func(raft.RPC) { t.Error("garbage reached raft") })
					m.Handle(16, echo)
				})
				conn := greeted(t, c, "r/x", "r/2")
				begin := time.Now()
				_, _ = conn.Write(b) // the listener may stop reading midway
				if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("err %v, want the end", err)
				}
				if time.Since(begin) > time.Second {
					t.Error("the connection was kept")
				}
				a := c.add(t, "r/1", nil, nil)
				if _, err := a.Call(short(t), "r/2", 16, nil); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// greeted returns a connection that passed the hello as node from.
func greeted(t *testing.T, c *cluster, from, to string) net.Conn {
	t.Helper()
	conn, err := c.net.dialer(from)(context.Background(), to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(encodeHello(hello{min: 1, max: 1, cluster: "test", from: from, to: to})); err != nil {
		t.Fatal(err)
	}
	if _, err := readGreeting(conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestDialerSurvivesGarbage(t *testing.T) {
	for name, b := range map[string][]byte{
		"listener's": appendFrame(nil, &frame{typ: frameCancel, id: 1}),
		"oversize":   {0xff, 0xff, 0xff, 0xff},
		"error":      appendFrame(nil, &frame{typ: frameResponse, id: 1, status: statusError, body: []byte{1}}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t)
				ln := c.net.listen("r/2")
				go func() {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					_, _ = readGreeting(conn)
					_, _ = conn.Write(encodeWelcome(welcome{version: 1, cluster: "test", node: "r/2"}))
					go func() { _, _ = io.Copy(io.Discard, conn) }()
					time.Sleep(time.Millisecond) // the call is on its way
					_, _ = conn.Write(b)
				}()
				a := c.add(t, "r/1", nil, nil)
				_, err := a.Call(context.Background(), "r/2", 16, nil)
				if err == nil || errors.Is(err, ErrUnreachable) || !errors.Is(err, errFrame) {
					t.Errorf("err %v, want a malformed frame", err)
				}
				_ = a.Close()
			})
		})
	}
}

// FuzzFrame feeds every decoder of the link: none may panic, and what decodes
// must encode to what decodes the same.
func FuzzFrame(f *testing.F) {
	for _, v := range frames() {
		f.Add(appendFrame(nil, &v)[lengthBytes:])
	}
	for op, b := range sampleRequests() {
		v := frame{typ: frameRequest, id: 9, kind: kindRaft, body: append(appendEnvelope(nil, op, 3, "s"), b...)}
		f.Add(appendFrame(nil, &v)[lengthBytes:])
	}
	f.Add(encodeHello(hello{min: 1, max: 2, cluster: "c", from: "a", to: "b"}))
	f.Add(encodeWelcome(welcome{version: 1, cluster: "c", node: "a", reason: "r"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if body, err := readGreeting(bytes.NewReader(b)); err == nil {
			_, _ = decodeHello(body)
			_, _ = decodeWelcome(body)
		}
		v, err := decodeFrame(b)
		if err != nil {
			return
		}
		again, err := decodeFrame(appendFrame(nil, &v)[lengthBytes:])
		if err != nil || !reflect.DeepEqual(v, again) {
			t.Fatalf("%+v became %+v, %v", v, again, err)
		}
		_, _ = decodeError(v.body)
		_ = decodeAppendResponse(v.body, &raft.AppendEntriesResponse{})
		_ = decodeVoteResponse(v.body, &raft.RequestVoteResponse{})
		_ = decodePreVoteResponse(v.body, &raft.RequestPreVoteResponse{})
		_ = decodeTimeoutNowResponse(v.body, &raft.TimeoutNowResponse{})
		_ = decodeSnapshotResponse(v.body, &raft.InstallSnapshotResponse{})
		e, err := decodeEnvelope(v.body)
		if err != nil {
			return
		}
		cmd, err := decodeCommand(e.op, e.body)
		if err != nil {
			return
		}
		if q, ok := cmd.(*raft.AppendEntriesRequest); ok {
			again, err := decodeAppendRequest(appendAppendRequest(nil, q))
			if err != nil || !reflect.DeepEqual(q, again) {
				t.Fatalf("%+v became %+v, %v", q, again, err)
			}
		}
	})
}
