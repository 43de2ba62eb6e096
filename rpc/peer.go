package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	replicationv1 "github.com/samecart/samecart/proto/replication/v1"
	"github.com/samecart/samecart/proto/replication/v1/replicationv1connect"
	"github.com/samecart/samecart/replication"
)

// peerMessageBytesMax bounds one message between regions, either way. It
// holds one interval at its largest, or one Join, with room to spare.
const peerMessageBytesMax = 16 << 20

// PeerHTTPClient returns a client fit for PeerClients: HTTP/2 only, over
// TLS when tls is given, else in clear; a connection that stops answering
// pings is dropped with all its streams. One serves all peers of a process.
func PeerHTTPClient(config *tls.Config) *http.Client {
	var p http.Protocols
	p.SetHTTP2(config != nil)
	p.SetUnencryptedHTTP2(config == nil)
	return &http.Client{
		Transport: &http.Transport{
			TLSClientConfig: config,
			Protocols:       &p,
			IdleConnTimeout: 5 * time.Minute,
			HTTP2:           &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 3 * time.Second},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// PeerClient reaches one peer region through any of its nodes: it keeps to
// one address while that works and goes on to the next when it fails. It is
// a replication.Transport, safe for concurrent use.
type PeerClient struct {
	hc    connect.HTTPClient
	urls  []string
	calls []replicationv1connect.ReplicationServiceClient // one for each URL
	codec *replication.Codec

	mu      sync.Mutex
	current int
}

// NewPeerClient returns a client for the region behind the base URLs. hc
// must speak HTTP/2, see PeerHTTPClient, and have no timeout of its own.
func NewPeerClient(hc connect.HTTPClient, urls []string, codec *replication.Codec) (*PeerClient, error) {
	if len(urls) == 0 {
		return nil, errors.New("peer region has no address: give at least one base URL")
	}
	c := &PeerClient{hc: hc, urls: urls, codec: codec}
	for _, u := range urls {
		c.calls = append(c.calls, replicationv1connect.NewReplicationServiceClient(hc, u,
			connect.WithReadMaxBytes(peerMessageBytesMax), connect.WithSendMaxBytes(peerMessageBytesMax),
			// Intervals are compressed already, acks and digests do not gain.
			connect.WithAcceptCompression("gzip", nil, nil)))
	}
	return c, nil
}

func (c *PeerClient) pick() (int, replicationv1connect.ReplicationServiceClient) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current, c.calls[c.current]
}

// failed goes on to the next address, unless somebody has already.
func (c *PeerClient) failed(i int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current == i {
		c.current = (i + 1) % len(c.calls)
	}
}

// peerAnswered reports whether err is the peer's own answer, which another
// node of the region would give too.
func peerAnswered(err error) bool {
	return slices.Contains([]connect.Code{
		connect.CodeInvalidArgument, connect.CodePermissionDenied, connect.CodeUnauthenticated,
		connect.CodeFailedPrecondition, connect.CodeResourceExhausted,
	}, connect.CodeOf(err))
}

// peerCall makes one unary call, at each address at most once.
func peerCall[T any](ctx context.Context, c *PeerClient, call func(replicationv1connect.ReplicationServiceClient) (T, error)) (T, error) {
	for n := 1; ; n++ {
		i, to := c.pick()
		out, err := call(to)
		if err == nil || peerAnswered(err) || errors.Is(ctx.Err(), context.Canceled) {
			return out, err
		}
		c.failed(i)
		if n == len(c.calls) || ctx.Err() != nil {
			return out, err
		}
	}
}

// Push opens a stream for the origin stream that hello names.
func (c *PeerClient) Push(ctx context.Context, hello replication.Hello) (replication.PushStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	i, to := c.pick()
	s := &peerStream{client: c, index: i, stream: to.Push(ctx), cancel: cancel}
	// The HTTP/2 client looks at ctx when it has something to send.
	context.AfterFunc(ctx, func() { _ = s.stream.CloseRequest() })
	err := s.stream.Send(&replicationv1.PushRequest{Message: &replicationv1.PushRequest_Hello{Hello: peerHello(hello)}})
	if err != nil && !errors.Is(err, io.EOF) { // after EOF, Recv says why
		s.ended(err)
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Digests returns the digests of the region's slots in [lo, hi).
func (c *PeerClient) Digests(ctx context.Context, lo, hi uint32) ([]replication.Digest, error) {
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.DigestsResponse], error) {
		return to.Digests(ctx, connect.NewRequest(&replicationv1.DigestsRequest{SlotLo: lo, SlotHi: hi}))
	})
	if err != nil {
		return nil, err
	}
	b := resp.Msg.Digests
	if len(b)%16 != 0 {
		return nil, fmt.Errorf("digests of slots %d to %d: %d bytes are no digests", lo, hi, len(b))
	}
	out := make([]replication.Digest, 0, len(b)/16)
	for d := range slices.Chunk(b, 16) {
		out = append(out, replication.Digest(d))
	}
	return out, nil
}

// Bucket lists carts of one slot of the region, by id, after the given one.
func (c *PeerClient) Bucket(ctx context.Context, slot uint32, after string, limit int) ([]replication.CartDigest, bool, error) {
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.BucketResponse], error) {
		return to.Bucket(ctx, connect.NewRequest(&replicationv1.BucketRequest{Slot: slot, After: after, Limit: uint32(limit)}))
	})
	if err != nil {
		return nil, false, err
	}
	out := make([]replication.CartDigest, 0, len(resp.Msg.Carts))
	for _, d := range resp.Msg.Carts {
		if len(d.Digest) != 16 {
			return nil, false, fmt.Errorf("digest of cart %q has %d bytes, want 16", d.CartId, len(d.Digest))
		}
		out = append(out, replication.CartDigest{CartID: d.CartId, Digest: replication.Digest(d.Digest)})
	}
	return out, resp.Msg.More, nil
}

// Fetch returns the region's whole carts, one per id; one that it does not
// have comes without data.
func (c *PeerClient) Fetch(ctx context.Context, cartIDs []string) ([]replication.WholeCart, error) {
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.FetchResponse], error) {
		return to.Fetch(ctx, connect.NewRequest(&replicationv1.FetchRequest{CartIds: cartIDs}))
	})
	if err != nil {
		return nil, err
	}
	return peerCartsIn(resp.Msg.Carts), nil
}

// Join hands over whole carts and then, unless it is 0, moves the cursor.
func (c *PeerClient) Join(ctx context.Context, carts []replication.WholeCart, hello replication.Hello, cursor uint64) error {
	req := &replicationv1.JoinRequest{Carts: peerCartsOut(carts), Stream: peerHello(hello), Cursor: cursor}
	_, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.JoinResponse], error) {
		return to.Join(ctx, connect.NewRequest(req))
	})
	return err
}

// Known returns the highest incarnation of hello's region that the peer knows
// edits of in hello's slots; 0: none.
func (c *PeerClient) Known(ctx context.Context, hello replication.Hello) (uint32, error) {
	resp, err := peerCall(ctx, c, func(to replicationv1connect.ReplicationServiceClient) (*connect.Response[replicationv1.KnownResponse], error) {
		return to.Known(ctx, connect.NewRequest(&replicationv1.KnownRequest{Hello: peerHello(hello)}))
	})
	if err != nil {
		return 0, err
	}
	return resp.Msg.Incarnation, nil
}

// peerStream is the sending end of one Push.
type peerStream struct {
	client *PeerClient
	index  int
	stream *connect.BidiStreamForClient[replicationv1.PushRequest, replicationv1.PushResponse]
	cancel context.CancelFunc
	heard  atomic.Bool // the peer answered at least once
	bytes  int
}

// Send compresses and sends one interval.
func (s *peerStream) Send(iv crdt.Interval) error {
	data, compressed := s.client.codec.Encode(iv)
	s.bytes = len(data)
	return s.stream.Send(&replicationv1.PushRequest{Message: &replicationv1.PushRequest_Interval{
		Interval: &replicationv1.Interval{Data: data, Compressed: compressed},
	}})
}

// SentBytes is the size of the last interval sent.
func (s *peerStream) SentBytes() int { return s.bytes }

// Recv returns the next ack.
func (s *peerStream) Recv() (replication.Ack, error) {
	m, err := s.stream.Receive()
	if err != nil {
		s.ended(err)
		return replication.Ack{}, err
	}
	s.heard.Store(true)
	return replication.Ack{Cursor: m.Cursor, Gap: m.Gap}, nil
}

// ended leaves the address behind when it is at fault. A stream that its
// user closed before any answer counts: the node may swallow everything.
func (s *peerStream) ended(err error) {
	closed := connect.CodeOf(err) == connect.CodeCanceled
	if !peerAnswered(err) && !(closed && s.heard.Load()) {
		s.client.failed(s.index)
	}
}

// Close ends the stream without waiting for the peer.
func (s *peerStream) Close() error {
	s.cancel() // first: closing would else wait for what is on its way
	return errors.Join(s.stream.CloseRequest(), peerIgnoreCanceled(s.stream.CloseResponse()))
}

func peerIgnoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled {
		return nil
	}
	return err
}

func peerHello(h replication.Hello) *replicationv1.Hello {
	return &replicationv1.Hello{
		Version: h.Version, RegionId: uint32(h.Stream.Region), Region: h.Region,
		Incarnation: h.Stream.Incarnation, Shard: h.Stream.Shard, SlotLo: h.SlotLo, SlotHi: h.SlotHi,
	}
}

func peerCartsOut(carts []replication.WholeCart) []*replicationv1.WholeCart {
	out := make([]*replicationv1.WholeCart, 0, len(carts))
	for _, c := range carts {
		out = append(out, &replicationv1.WholeCart{CartId: c.CartID, Data: c.Data})
	}
	return out
}

func peerCartsIn(carts []*replicationv1.WholeCart) []replication.WholeCart {
	out := make([]replication.WholeCart, 0, len(carts))
	for _, c := range carts {
		out = append(out, replication.WholeCart{CartID: c.CartId, Data: c.Data})
	}
	return out
}

// PeerConfig holds the settings of a PeerHandler; see DefaultPeerConfig.
type PeerConfig struct {
	// Peers returns the names of the other regions by id, as configured
	// now. It must be safe for concurrent use.
	Peers func() map[crdt.RegionID]string
	// Identity returns the region that a request's client certificate
	// proves. Nil trusts the network: for development only.
	Identity func(*http.Request) (region string, ok bool)
	// Forward returns the way to another peer region, for calls that a peer
	// region wants passed on there; nil: there is none. Nil forwards nothing.
	Forward func(region string) *PeerClient
	// Slots is the number of slots of the system; > 0.
	Slots uint32
	// Limits bound what a peer may send; Now is set for every message.
	Limits replication.Limits
	// StreamsMax bounds the open Push streams; > 0.
	StreamsMax int
	// HelloTimeout bounds the wait for a stream's first message; > 0.
	HelloTimeout time.Duration
	// SketchTimeout bounds the wait for a peer's next question about a sketch,
	// which is kept in memory for it; > 0.
	SketchTimeout time.Duration
	// SketchSymbolsMax bounds the symbols of one sketch, which are made ahead; > 0.
	SketchSymbolsMax int
	// AckEvery is how often an ack is repeated while a join takes long, so
	// that the sender can tell slow from dead; > 0.
	AckEvery time.Duration
	Events   PeerEvents
}

// DefaultPeerConfig returns production values for the given peers.
func DefaultPeerConfig(peers func() map[crdt.RegionID]string) PeerConfig {
	return PeerConfig{
		Peers:            peers,
		Slots:            1024,
		Limits:           replication.DefaultLimits(),
		StreamsMax:       4096, // every shard of many regions, and those still closing
		HelloTimeout:     5 * time.Second,
		SketchTimeout:    10 * time.Second,               // above what throttled repairs wait between two
		SketchSymbolsMax: 4 * replication.SketchItemsMax, // a repair gives up earlier
		AckEvery:         500 * time.Millisecond,         // a third of what senders wait
	}
}

func (c PeerConfig) validate() error {
	var errs []error
	positive := func(name string, ok bool) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s must be set and above 0", name))
		}
	}
	positive("Peers", c.Peers != nil)
	positive("Slots", c.Slots > 0)
	positive("StreamsMax", c.StreamsMax > 0)
	positive("HelloTimeout", c.HelloTimeout > 0)
	positive("SketchTimeout", c.SketchTimeout > 0)
	positive("SketchSymbolsMax", c.SketchSymbolsMax > 0)
	positive("AckEvery", c.AckEvery > 0)
	return errors.Join(errs...)
}

// PeerEvents are called synchronously and must not block; nil funcs are
// skipped.
type PeerEvents struct {
	// Received: an interval or whole carts passed the checks.
	Received func(PeerReceived)
	// Refused: a peer sent what it must not; region is "" before its hello.
	Refused func(region string, err error)
}

// PeerReceived is what one message of a peer held.
type PeerReceived struct {
	Region             string
	Rows, Carts, Bytes int
	Clocks             replication.Clocks
}

// PeerHandler is the receiving end of replication: it checks who sends and
// what, and hands it to the Sink. Mount what Handler returns; the RPC methods
// rely on it. It is safe for concurrent use.
type PeerHandler struct {
	sink     replication.Sink
	codec    *replication.Codec
	cfg      PeerConfig
	streams  chan struct{}   // one token per open Push and forwarded call
	sketches chan struct{}   // one token per sketch in memory
	closing  context.Context // ends with Close
	end      context.CancelFunc
}

// NewPeerHandler returns a handler in front of sink; it starts nothing.
func NewPeerHandler(sink replication.Sink, codec *replication.Codec, cfg PeerConfig) (*PeerHandler, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure peer handler: %w", err)
	}
	h := &PeerHandler{
		sink: sink, codec: codec, cfg: cfg,
		streams: make(chan struct{}, cfg.StreamsMax), sketches: make(chan struct{}, sketchesMax),
	}
	h.closing, h.end = context.WithCancel(context.Background())
	return h, nil
}

// Close ends every open stream, so that a server may shut down; senders go
// on at another node. New streams are refused.
func (h *PeerHandler) Close() { h.end() }

// Handler returns the path to mount the service on, and the service. Push
// needs HTTP/2.
func (h *PeerHandler) Handler() (string, http.Handler) {
	path, inner := replicationv1connect.NewReplicationServiceHandler(h,
		connect.WithReadMaxBytes(peerMessageBytesMax), connect.WithSendMaxBytes(peerMessageBytesMax),
		connect.WithCompression("gzip", nil, nil)) // no second way to send a bomb
	refuse := connect.NewErrorWriter()
	return path, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := peerCaller{control: http.NewResponseController(w)}
		if h.cfg.Identity != nil {
			var ok bool
			if p.region, ok = h.cfg.Identity(r); !ok || !h.isPeer(p.region) {
				err := connect.NewError(connect.CodeUnauthenticated,
					errors.New("no client certificate of a peer region: present one signed for this system"))
				h.refused(p.region, err)
				_ = refuse.Write(w, r, err) // the caller is gone when it fails
				return
			}
		}
		origin, err := h.onBehalf(w, r, p.region)
		if err != nil {
			h.refused(p.region, err)
			_ = refuse.Write(w, r, connect.NewError(connect.CodePermissionDenied, err)) // as above
			return
		}
		p.region = origin
		inner.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerCallerKey{}, p)))
	})
}

// peerCaller is what is known of a request besides its messages.
type peerCaller struct {
	region  string // proven; "" when the network is trusted
	control *http.ResponseController
}

type peerCallerKey struct{}

func (h *PeerHandler) isPeer(name string) bool {
	return slices.Contains(slices.Collect(maps.Values(h.cfg.Peers())), name)
}

func (h *PeerHandler) refused(region string, err error) {
	if h.cfg.Events.Refused != nil {
		h.cfg.Events.Refused(region, err)
	}
}

// hello checks who speaks.
func (h *PeerHandler) hello(ctx context.Context, m *replicationv1.Hello) (replication.Hello, error) {
	caller, _ := ctx.Value(peerCallerKey{}).(peerCaller)
	fail := func(code connect.Code, format string, args ...any) (replication.Hello, error) {
		err := connect.NewError(code, fmt.Errorf(format, args...))
		h.refused(caller.region, err)
		return replication.Hello{}, err
	}
	if m == nil {
		return fail(connect.CodeInvalidArgument, "no hello: say first which stream of which region this is")
	}
	if m.Version != replication.Version {
		return fail(connect.CodeFailedPrecondition, "protocol version %d: this node speaks %d", m.Version, replication.Version)
	}
	name, ok := "", false
	if m.RegionId <= 0xffff {
		name, ok = h.cfg.Peers()[crdt.RegionID(m.RegionId)]
	}
	switch {
	case !ok:
		return fail(connect.CodePermissionDenied, "region %d (%q) is not a peer of this region: add it to both configurations", m.RegionId, m.Region)
	case name != m.Region:
		return fail(connect.CodePermissionDenied, "region %d is called %q here, not %q: the configurations must agree", m.RegionId, name, m.Region)
	case caller.region != "" && caller.region != name:
		return fail(connect.CodePermissionDenied, "the certificate is of region %q, the hello of %q", caller.region, name)
	case m.SlotLo >= m.SlotHi || m.SlotHi > h.cfg.Slots:
		return fail(connect.CodeInvalidArgument, "slots %d to %d: want a range within %d", m.SlotLo, m.SlotHi, h.cfg.Slots)
	}
	return replication.Hello{
		Version: m.Version, Region: name,
		Stream: crdt.Stream{Region: crdt.RegionID(m.RegionId), Incarnation: m.Incarnation, Shard: m.Shard},
		SlotLo: m.SlotLo, SlotHi: m.SlotHi,
	}, nil
}

// peerError gives an error of the sink or of a check its code. The text goes
// to the peer region's operators, who run this one too.
func peerError(err error) error {
	var c *connect.Error
	switch {
	case errors.As(err, &c):
		return err
	case errors.Is(err, replication.ErrRefused):
		return connect.NewError(connect.CodeInvalidArgument, err)
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, err)
	}
	return connect.NewError(connect.CodeUnavailable, err)
}

// peerIncoming is one interval that passed the checks, or the stream's end.
type peerIncoming struct {
	iv  crdt.Interval
	err error
}

// Push receives one origin stream. While one interval is being joined, the
// next is received, decompressed and checked; acks are cumulative.
func (h *PeerHandler) Push(ctx context.Context, s *connect.BidiStream[replicationv1.PushRequest, replicationv1.PushResponse]) error {
	select {
	case h.streams <- struct{}{}:
		defer func() { <-h.streams }()
	default:
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("this node has %d streams open, its limit: try another", h.cfg.StreamsMax))
	}
	caller, _ := ctx.Value(peerCallerKey{}).(peerCaller)
	if err := caller.control.SetReadDeadline(time.Now().Add(h.cfg.HelloTimeout)); err != nil {
		return connect.NewError(connect.CodeInternal, fmt.Errorf("bound the wait for a hello: %w", err))
	}
	first, err := s.Receive()
	if err != nil {
		return err
	}
	hello, err := h.hello(ctx, first.GetHello())
	if err != nil {
		return err
	}
	if err := caller.control.SetReadDeadline(time.Time{}); err != nil {
		return connect.NewError(connect.CodeInternal, fmt.Errorf("lift the bound on the hello: %w", err))
	}

	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer func() {
		cancel()
		// A Receive under way knows no ctx: a deadline in the past ends it.
		_ = caller.control.SetReadDeadline(time.Unix(1, 0))
	}()
	in := make(chan peerIncoming)
	work.Go(func() { h.receive(ctx, s, hello, in) })
	return h.join(ctx, s, hello, in, &work)
}

// receive reads, decodes and checks intervals until the stream ends.
func (h *PeerHandler) receive(ctx context.Context, s *connect.BidiStream[replicationv1.PushRequest, replicationv1.PushResponse],
	hello replication.Hello, in chan<- peerIncoming,
) {
	for {
		var next peerIncoming
		m, err := s.Receive()
		if err == nil {
			next.iv, err = h.interval(m, hello)
		}
		next.err = err
		select {
		case in <- next:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (h *PeerHandler) interval(m *replicationv1.PushRequest, hello replication.Hello) (crdt.Interval, error) {
	data := m.GetInterval().GetData()
	iv, err := h.codec.Decode(data, m.GetInterval().GetCompressed())
	if err == nil && iv.Stream != hello.Stream {
		err = fmt.Errorf("%w: interval of stream %v on the stream of %v", replication.ErrRefused, iv.Stream, hello.Stream)
	}
	var clocks replication.Clocks
	if err == nil {
		clocks, err = replication.Validate(iv, hello.Stream.Region, h.limits())
	}
	if err != nil {
		h.refused(hello.Region, err)
		return crdt.Interval{}, err
	}
	if h.cfg.Events.Received != nil {
		h.cfg.Events.Received(PeerReceived{Region: hello.Region, Rows: len(iv.Rows), Bytes: len(data), Clocks: clocks})
	}
	return iv, nil
}

func (h *PeerHandler) limits() replication.Limits {
	l := h.cfg.Limits
	l.Now = time.Now()
	return l
}

// peerJoined is what the sink made of one interval.
type peerJoined struct {
	cursor uint64
	ok     bool
	err    error
}

// join hands one interval after the other to the sink, and sends the acks.
func (h *PeerHandler) join(ctx context.Context, s *connect.BidiStream[replicationv1.PushRequest, replicationv1.PushResponse],
	hello replication.Hello, in <-chan peerIncoming, work *sync.WaitGroup,
) error {
	cursor, err := h.sink.Cursor(ctx, hello)
	if err != nil {
		return peerError(fmt.Errorf("read cursor of stream %v: %w", hello.Stream, err))
	}
	if err := s.Send(&replicationv1.PushResponse{Cursor: cursor}); err != nil {
		return err
	}
	slow := time.NewTimer(h.cfg.AckEvery)
	slow.Stop()
	defer slow.Stop()
	joined := make(chan peerJoined, 1)
	var held peerHeld
	busy, ended := false, false
	var end error // of the stream, once what came before it is joined
	for {
		if ended && !busy && len(held.ivs) == 0 {
			return end
		}
		if !busy && len(held.ivs) > 0 {
			iv := held.take()
			busy = true
			slow.Reset(h.cfg.AckEvery)
			work.Go(func() {
				var j peerJoined
				j.cursor, j.ok, j.err = h.sink.Join(ctx, iv, hello.SlotLo, hello.SlotHi)
				joined <- j
			})
		}
		ready := in
		if ended || held.full() {
			ready = nil
		}
		select {
		case next := <-ready:
			switch {
			case errors.Is(next.err, io.EOF): // the sender is done
				ended = true
			case next.err != nil:
				ended, end = true, peerError(next.err)
			default:
				held.add(next.iv)
			}
		case j := <-joined:
			if j.err != nil {
				return peerError(fmt.Errorf("join rows of stream %v: %w", hello.Stream, j.err))
			}
			busy, cursor = false, j.cursor
			slow.Stop()
			if err := s.Send(&replicationv1.PushResponse{Cursor: cursor, Gap: !j.ok}); err != nil {
				return err
			}
		case <-slow.C:
			if err := s.Send(&replicationv1.PushResponse{Cursor: cursor}); err != nil {
				return err
			}
			slow.Reset(h.cfg.AckEvery)
		case <-h.closing.Done():
			return connect.NewError(connect.CodeUnavailable, errors.New("this node is shutting down: go on at another"))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Digests returns this region's digests.
func (h *PeerHandler) Digests(ctx context.Context, req *connect.Request[replicationv1.DigestsRequest]) (*connect.Response[replicationv1.DigestsResponse], error) {
	lo, hi := req.Msg.SlotLo, req.Msg.SlotHi
	if lo >= hi || hi > h.cfg.Slots {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("slots %d to %d: want a range within %d", lo, hi, h.cfg.Slots))
	}
	digests, err := h.sink.Digests(ctx, lo, hi)
	if err != nil {
		return nil, peerError(fmt.Errorf("read digests of slots %d to %d: %w", lo, hi, err))
	}
	out := make([]byte, 0, 16*len(digests))
	for _, d := range digests {
		out = append(out, d[:]...)
	}
	return connect.NewResponse(&replicationv1.DigestsResponse{Digests: out}), nil
}

// Bucket lists carts of one slot of this region.
func (h *PeerHandler) Bucket(ctx context.Context, req *connect.Request[replicationv1.BucketRequest]) (*connect.Response[replicationv1.BucketResponse], error) {
	m := req.Msg
	if m.Slot >= h.cfg.Slots || m.Limit == 0 || m.Limit > replication.BucketLimit || len(m.After) > h.cfg.Limits.CartIDBytes {
		return nil, connect.NewError(connect.CodeInvalidArgument,
			fmt.Errorf("slot %d, limit %d: want a slot below %d and a limit of 1 to %d", m.Slot, m.Limit, h.cfg.Slots, replication.BucketLimit))
	}
	carts, more, err := h.sink.Bucket(ctx, m.Slot, m.After, int(m.Limit))
	if err != nil {
		return nil, peerError(fmt.Errorf("list carts of slot %d: %w", m.Slot, err))
	}
	out := &replicationv1.BucketResponse{Carts: make([]*replicationv1.CartDigest, 0, len(carts)), More: more}
	for _, c := range carts {
		out.Carts = append(out.Carts, &replicationv1.CartDigest{CartId: c.CartID, Digest: c.Digest[:]})
	}
	return connect.NewResponse(out), nil
}

// Fetch returns whole carts of this region.
func (h *PeerHandler) Fetch(ctx context.Context, req *connect.Request[replicationv1.FetchRequest]) (*connect.Response[replicationv1.FetchResponse], error) {
	ids := req.Msg.CartIds
	if len(ids) > h.cfg.Limits.Carts {
		return nil, connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%d carts: at most %d", len(ids), h.cfg.Limits.Carts))
	}
	carts, err := h.sink.Fetch(ctx, ids)
	if err != nil {
		return nil, peerError(fmt.Errorf("fetch %d carts: %w", len(ids), err))
	}
	return connect.NewResponse(&replicationv1.FetchResponse{Carts: peerCartsOut(carts)}), nil
}

// Join takes whole carts into this region, then moves the cursor.
func (h *PeerHandler) Join(ctx context.Context, req *connect.Request[replicationv1.JoinRequest]) (*connect.Response[replicationv1.JoinResponse], error) {
	hello, err := h.hello(ctx, req.Msg.Stream)
	if err != nil {
		return nil, err
	}
	carts := peerCartsIn(req.Msg.Carts)
	clocks, err := replication.ValidateCarts(carts, h.limits())
	if err != nil {
		h.refused(hello.Region, err)
		return nil, peerError(err)
	}
	if len(carts) > 0 {
		if h.cfg.Events.Received != nil {
			n := 0
			for _, c := range carts {
				n += len(c.Data)
			}
			h.cfg.Events.Received(PeerReceived{Region: hello.Region, Carts: len(carts), Bytes: n, Clocks: clocks})
		}
		if err := h.sink.JoinCarts(ctx, carts, hello.Stream); err != nil {
			return nil, peerError(fmt.Errorf("join %d carts: %w", len(carts), err))
		}
	}
	if c := req.Msg.Cursor; c > 0 {
		if err := h.sink.MoveCursor(ctx, hello, c); err != nil {
			return nil, peerError(fmt.Errorf("move cursor of stream %v to %d: %w", hello.Stream, c, err))
		}
	}
	return connect.NewResponse(&replicationv1.JoinResponse{}), nil
}

// Known says under which incarnation this region knows the asking one.
func (h *PeerHandler) Known(ctx context.Context, req *connect.Request[replicationv1.KnownRequest]) (*connect.Response[replicationv1.KnownResponse], error) {
	hello, err := h.hello(ctx, req.Msg.Hello)
	if err != nil {
		return nil, err
	}
	incarnation, err := h.sink.Known(ctx, hello)
	if err != nil {
		return nil, peerError(fmt.Errorf("look for edits of region %q: %w", hello.Region, err))
	}
	return connect.NewResponse(&replicationv1.KnownResponse{Incarnation: incarnation}), nil
}
