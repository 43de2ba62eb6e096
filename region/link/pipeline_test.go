package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func TestPipelineKeepsOrderAndBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, to := pair(t, func(cfg *Config) { cfg.PipelineInFlight = 3 })
		var at uint64
		answering(t, to, func(cmd any, _ io.Reader) (any, error) {
			q := cmd.(*raft.AppendEntriesRequest)
			if q.PrevLogEntry != at {
				t.Errorf("raft saw %d, want %d", q.PrevLogEntry, at)
			}
			at++
			time.Sleep(10 * time.Millisecond)
			return yes(cmd, nil)
		})
		p, err := from.AppendEntriesPipeline("s2", "r/2")
		if err != nil {
			t.Fatal(err)
		}
		const n = 50
		var sent, most atomic.Int64
		var got atomic.Int64
		go func() {
			for i := range uint64(n) {
				q := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: i, Entries: entries(i+1, 10)}
				if _, err := p.AppendEntries(q, new(raft.AppendEntriesResponse)); err != nil {
					t.Error(err)
				}
				most.Store(max(most.Load(), sent.Add(1)-got.Load()))
			}
		}()
		for i := range uint64(n) {
			f := <-p.Consumer()
			got.Add(1)
			if err := f.Error(); err != nil {
				t.Fatal(err)
			}
			if f.Request().PrevLogEntry != i || f.Response().LastLog != i || !f.Response().Success || f.Start().IsZero() {
				t.Fatalf("answer %d is of request %d: %+v", i, f.Request().PrevLogEntry, f.Response())
			}
		}
		if m := most.Load(); m < 2 || m > 5 {
			t.Errorf("%d under way at once, want about 3", m)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if _, err := p.AppendEntries(beat(1), new(raft.AppendEntriesResponse)); !errors.Is(err, raft.ErrPipelineShutdown) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// TestFailedPipelineLooksLikeNoContact is R3: what failed does not come out
// of the consumer, and the next request ends the pipeline.
func TestFailedPipelineLooksLikeNoContact(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(c *cluster, to *RaftTransport)
		want  error
	}{
		"cut":    {func(c *cluster, _ *RaftTransport) { c.net.cut("r/1", "r/2") }, ErrConnectionLost},
		"server": {func(_ *cluster, to *RaftTransport) { _ = to.Close() }, ErrWrongServer},
		"silent": {func(*cluster, *RaftTransport) {}, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, from, to := pair(t, nil)
				p, err := from.AppendEntriesPipeline("s2", "r/2")
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = p.Close() }()
				q := &raft.AppendEntriesRequest{Term: 3, Entries: entries(1, 10)}
				f1, err := p.AppendEntries(q, new(raft.AppendEntriesResponse))
				if err != nil {
					t.Fatal(err)
				}
				f2, err := p.AppendEntries(q, new(raft.AppendEntriesResponse))
				if err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				tc.spoil(c, to)
				if err := f1.Error(); !errors.Is(err, tc.want) {
					t.Errorf("first: %v, want %v", err, tc.want)
				}
				if err := f2.Error(); err == nil {
					t.Error("second: no error")
				}
				synctest.Wait()
				select {
				case <-p.Consumer():
					t.Error("a failed request came out of the pipeline")
				default:
				}
				if _, err := p.AppendEntries(q, new(raft.AppendEntriesResponse)); !errors.Is(err, raft.ErrPipelineShutdown) {
					t.Errorf("next: %v, want ErrPipelineShutdown", err)
				}
				cn := c.nodes["r/1"].peers["r/2"].current()
				if cn != nil && len(cn.calls) != 0 {
					t.Errorf("%d calls left behind", len(cn.calls))
				}
			})
		})
	}
}

func TestPipelineWithNobodyThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, _ := pair(t, nil)
		if _, err := from.AppendEntriesPipeline("s9", "r/9"); !errors.Is(err, ErrUnreachable) {
			t.Errorf("err %v", err)
		}
		p, err := from.AppendEntriesPipeline("s2", "r/2")
		if err != nil {
			t.Fatal(err)
		}
		q := &raft.AppendEntriesRequest{Term: 3, Entries: entries(1, 10)}
		for range 2 {
			if _, err := p.AppendEntries(q, new(raft.AppendEntriesResponse)); err != nil {
				t.Fatal(err)
			}
		}
		blocked := make(chan error, 1)
		go func() { _, err := p.AppendEntries(q, new(raft.AppendEntriesResponse)); blocked <- err }()
		synctest.Wait()
		_ = p.Close()
		if err := <-blocked; !errors.Is(err, raft.ErrPipelineShutdown) {
			t.Errorf("blocked send: %v", err)
		}
		big := &raft.AppendEntriesRequest{Term: 3, Entries: entries(1, 5<<20)}
		p, err = from.AppendEntriesPipeline("s2", "r/2")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }()
		if _, err := p.AppendEntries(big, new(raft.AppendEntriesResponse)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("one huge entry: %v, want ErrTooLarge", err)
		}
		if err := from.AppendEntries("s2", "r/2", big, new(raft.AppendEntriesResponse)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("one huge entry: %v, want ErrTooLarge", err)
		}
		huge := &raft.RequestVoteRequest{RPCHeader: raft.RPCHeader{ID: make([]byte, 5<<20)}}
		if err := from.RequestVote("s2", "r/2", huge, new(raft.RequestVoteResponse)); !errors.Is(err, ErrTooLarge) {
			t.Errorf("a huge vote: %v, want ErrTooLarge", err)
		}
	})
}

// TestSplitAppendStopsAtARefusal: of several parts, the first that raft does
// not take is the answer.
func TestSplitAppendStopsAtARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, to := pair(t, func(cfg *Config) { cfg.FrameBytesMax = 4 << 10 })
		seen := answering(t, to, func(cmd any, _ io.Reader) (any, error) {
			q := cmd.(*raft.AppendEntriesRequest)
			return &raft.AppendEntriesResponse{Term: 3, Success: q.PrevLogEntry < 2, LastLog: q.PrevLogEntry}, nil
		})
		q := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 0, Entries: entries(1, 3000, 3000, 3000, 3000)}
		var resp raft.AppendEntriesResponse
		if err := from.AppendEntries("s2", "r/2", q, &resp); err != nil || resp.Success || resp.LastLog != 2 || seen.Load() != 3 {
			t.Errorf("%+v, %v, %d requests; want the refusal of the third", resp, err, seen.Load())
		}
		p, err := from.AppendEntriesPipeline("s2", "r/2")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = p.Close() }()
		f, err := p.AppendEntries(q, new(raft.AppendEntriesResponse))
		if err != nil {
			t.Fatal(err)
		}
		if got := <-p.Consumer(); got != f || f.Error() != nil || f.Response().Success || f.Response().LastLog != 2 {
			t.Errorf("pipeline: %+v, %v", f.Response(), f.Error())
		}
	})
}

// TestSnapshotWindowHolds: a slow reader holds the sender back.
func TestSnapshotWindowHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, from, to := pair(t, func(cfg *Config) { cfg.SnapshotWindow = 64 << 10 })
		const size = 1 << 20
		source := &counting{r: bytes.NewReader(make([]byte, size))}
		answering(t, to, func(cmd any, r io.Reader) (any, error) {
			buf := make([]byte, 1000)
			read := int64(0)
			for {
				n, err := r.Read(buf)
				read += int64(n)
				if ahead := source.n.Load() - read; ahead > 3*64<<10 {
					t.Errorf("the sender is %d bytes ahead of the reader", ahead)
				}
				if err != nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if n, err := r.Read(nil); n != 0 || err != nil && err != io.EOF {
				t.Errorf("empty read: %d, %v", n, err)
			}
			return &raft.InstallSnapshotResponse{Success: read == size}, nil
		})
		var resp raft.InstallSnapshotResponse
		err := from.InstallSnapshot("s2", "r/2", &raft.InstallSnapshotRequest{Size: size}, &resp, source)
		if err != nil || !resp.Success {
			t.Errorf("%+v, %v", resp, err)
		}
	})
}

type counting struct {
	r io.Reader
	n atomic.Int64
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

func TestSnapshotsThatFail(t *testing.T) {
	const size = 1 << 20
	drain := func(seen chan error) func(any, io.Reader) (any, error) {
		return func(_ any, r io.Reader) (any, error) {
			_, err := io.Copy(io.Discard, r)
			seen <- err
			return &raft.InstallSnapshotResponse{}, err
		}
	}
	t.Run("source too short", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, from, to := pair(t, nil)
			seen := make(chan error, 1)
			answering(t, to, drain(seen))
			err := from.InstallSnapshot("s2", "r/2", &raft.InstallSnapshotRequest{Size: size}, &raft.InstallSnapshotResponse{}, bytes.NewReader(make([]byte, size/2)))
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				t.Errorf("sender: %v", err)
			}
			if err := <-seen; err == nil {
				t.Error("the receiver saw a whole snapshot")
			}
		})
	})
	t.Run("cut", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			c, from, to := pair(t, nil)
			seen := make(chan error, 1)
			answering(t, to, func(cmd any, r io.Reader) (any, error) {
				_, _ = r.Read(make([]byte, 100))
				c.net.cut("r/1", "r/2")
				return drain(seen)(cmd, r)
			})
			err := from.InstallSnapshot("s2", "r/2", &raft.InstallSnapshotRequest{Size: 8 * size}, &raft.InstallSnapshotResponse{}, bytes.NewReader(make([]byte, 8*size)))
			if err == nil {
				t.Error("sender: no error")
			}
			if err := <-seen; err == nil {
				t.Error("the receiver saw a whole snapshot")
			}
		})
	})
	t.Run("refused early", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, from, to := pair(t, nil)
			answering(t, to, func(any, io.Reader) (any, error) { return nil, errors.New("older term") })
			source := &counting{r: bytes.NewReader(make([]byte, 8*size))}
			err := from.InstallSnapshot("s2", "r/2", &raft.InstallSnapshotRequest{Size: 8 * size}, &raft.InstallSnapshotResponse{}, source)
			var e *Error
			if !errors.As(err, &e) || e.Message != "older term" || source.n.Load() > size {
				t.Errorf("%v after %d bytes", err, source.n.Load())
			}
		})
	})
	t.Run("stalled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, from, to := pair(t, nil)
			release := make(chan struct{})
			answering(t, to, func(cmd any, _ io.Reader) (any, error) { <-release; return &raft.InstallSnapshotResponse{}, nil })
			begin := time.Now()
			err := from.InstallSnapshot("s2", "r/2", &raft.InstallSnapshotRequest{Size: size}, &raft.InstallSnapshotResponse{}, bytes.NewReader(make([]byte, size)))
			if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != 30*time.Second {
				t.Errorf("%v after %v", err, time.Since(begin))
			}
			close(release)
		})
	})
	t.Run("sender closed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, from, _ := pair(t, nil)
			failed := make(chan error, 1)
			go func() {
				failed <- from.InstallSnapshot("s2", "r/2", &raft.InstallSnapshotRequest{Size: size}, &raft.InstallSnapshotResponse{}, bytes.NewReader(make([]byte, size)))
			}()
			synctest.Wait()
			_ = from.Close()
			if err := <-failed; !errors.Is(err, ErrClosed) {
				t.Errorf("err %v, want ErrClosed", err)
			}
		})
	})
	t.Run("empty", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			_, from, to := pair(t, nil)
			answering(t, to, yes)
			var resp raft.InstallSnapshotResponse
			if err := from.InstallSnapshot("s2", "r/2", &raft.InstallSnapshotRequest{}, &resp, bytes.NewReader(nil)); err != nil || !resp.Success {
				t.Errorf("%+v, %v", resp, err)
			}
		})
	})
}
