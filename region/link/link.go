package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Kind says what a call is, so that the right handler gets it. Kinds 0 to 15
// belong to this package, the others to its users.
type Kind uint8

// kindUser is the first kind that users may take.
const kindUser Kind = 16

// KindWaits is the first of the kinds whose calls wait for something to happen:
// they are many and cost little. They are counted apart, so that those who wait
// never keep others from calling.
const KindWaits Kind = 128

func (k Kind) waits() bool { return k >= KindWaits }

// kindRaft carries raft RPCs.
const kindRaft Kind = 1

// Handler answers one call. from is the calling node's name; payload is the
// handler's own. ctx ends when the caller's deadline passes, when the caller
// gives up, when the connection ends and when Serve ends; a handler must
// return soon after. An *Error crosses intact, of another error its text.
// Handlers run concurrently, each on its own goroutine.
type Handler func(ctx context.Context, from string, payload []byte) ([]byte, error)

// Dialer opens a connection to a node, named like "us-east/1". TLS, when
// used, is the dialer's matter.
type Dialer func(ctx context.Context, node string) (net.Conn, error)

// Config holds the settings of a Mux; the zero value is not valid.
type Config struct {
	Self    string       // this node's name, 1 to 255 bytes
	Cluster string       // both ends must agree on it, such as "shop/us-east"; at most 255 bytes
	Dial    Dialer       // how to reach other nodes
	Log     *slog.Logger // nil: no log
	Events  Events

	// Verify, when set, says whether the far end of conn may call itself
	// node, such as by its certificate. Both ends ask it after the hello.
	Verify func(conn net.Conn, node string) error

	FrameBytesMax int // largest frame, and so about the largest payload and raft entry; 4 KiB to 256 MiB
	QueueBytesMax int // bytes that may wait to be written on one connection; >= FrameBytesMax
	InFlightMax   int // users' calls at once on one connection, per direction; >= 1
	WaitingMax    int // the same for calls of KindWaits and above; >= 1
	AcceptedMax   int // accepted connections at once; >= 1

	DialTimeout  time.Duration // for dialing and hello; > 0
	BackoffMin   time.Duration // pause after the first failed dial; calls meanwhile fail at once; > 0
	BackoffMax   time.Duration // longest pause; >= BackoffMin
	PingInterval time.Duration // how often a dialer shows that it lives; > 0
	PeerTimeout  time.Duration // silence, or a write stuck, after which a connection is given up; > PingInterval

	RaftTimeout       time.Duration // time limit of one raft RPC but snapshots; > 0
	PipelineInFlight  int           // AppendEntries of one raft pipeline at once; >= 2
	HeartbeatTimeout  time.Duration // time limit of one heartbeat; > HeartbeatHold
	HeartbeatHold     time.Duration // how long a heartbeat or its answer may wait for company; >= 0
	HeartbeatInterval time.Duration // shortest pause between two regular heartbeats, raft's HeartbeatTimeout/10; a sooner one is not held; >= 0

	SnapshotWindow int           // bytes of a snapshot under way or unread; 64 KiB to 64 MiB
	SnapshotStall  time.Duration // how long a snapshot may make no progress; > 0
	SnapshotAnswer time.Duration // how long the answer may take after the last byte: the restore; > 0
}

// DefaultConfig returns production values for a node called self, such as
// "us-east/1", in the given cluster.
func DefaultConfig(self, cluster string, dial Dialer) Config {
	return Config{
		Self:    self,
		Cluster: cluster,
		Dial:    dial,

		FrameBytesMax: 4 << 20,  // 32 ms of a gigabit line: heartbeats behind it still arrive in time
		QueueBytesMax: 16 << 20, // four of the largest frames
		InFlightMax:   4096,     // four times the clients at which the write path peaks
		WaitingMax:    1 << 16,  // a gateway's watched carts; about 10 KiB each, at both ends together
		AcceptedMax:   256,      // a region has tens of nodes

		DialTimeout:  2 * time.Second,
		BackoffMin:   10 * time.Millisecond,
		BackoffMax:   500 * time.Millisecond, // below an election, so a node that returns is found in time
		PingInterval: time.Second,
		PeerTimeout:  4 * time.Second, // three lost pings; TCP alone would take minutes

		RaftTimeout:       5 * time.Second,        // a follower's slow fsync is no failure
		PipelineInFlight:  2,                      // more adds latency, says raft
		HeartbeatTimeout:  400 * time.Millisecond, // below raft's HeartbeatTimeout less LeaderLeaseTimeout, see Decisions
		HeartbeatHold:     5 * time.Millisecond,   // 64 groups: about 3 heartbeats a write
		HeartbeatInterval: 100 * time.Millisecond,

		SnapshotWindow: 1 << 20, // 1 ms round trip: 1 GB/s
		SnapshotStall:  30 * time.Second,
		SnapshotAnswer: 10 * time.Minute,
	}
}

// validate reports every bad field at once and changes none.
func (c *Config) validate() error {
	var errs []error
	bad := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Self == "" || len(c.Self) > nameBytesMax, "Self has %d bytes, 1 to %d allowed", len(c.Self), nameBytesMax)
	bad(len(c.Cluster) > nameBytesMax, "Cluster has %d bytes, at most %d allowed", len(c.Cluster), nameBytesMax)
	bad(c.Dial == nil, "Dial is missing")
	bad(c.FrameBytesMax < 4<<10 || c.FrameBytesMax > 256<<20, "FrameBytesMax is %d, 4 KiB to 256 MiB allowed", c.FrameBytesMax)
	bad(c.QueueBytesMax < c.FrameBytesMax, "QueueBytesMax is %d, at least FrameBytesMax (%d) needed", c.QueueBytesMax, c.FrameBytesMax)
	bad(c.InFlightMax < 1, "InFlightMax is %d, at least 1 needed", c.InFlightMax)
	bad(c.WaitingMax < 1, "WaitingMax is %d, at least 1 needed", c.WaitingMax)
	bad(c.AcceptedMax < 1, "AcceptedMax is %d, at least 1 needed", c.AcceptedMax)
	bad(c.DialTimeout <= 0, "DialTimeout is %v, must be positive", c.DialTimeout)
	bad(c.BackoffMin <= 0, "BackoffMin is %v, must be positive", c.BackoffMin)
	bad(c.BackoffMax < c.BackoffMin, "BackoffMax is %v, at least BackoffMin (%v) needed", c.BackoffMax, c.BackoffMin)
	bad(c.PingInterval <= 0, "PingInterval is %v, must be positive", c.PingInterval)
	bad(c.PeerTimeout <= c.PingInterval, "PeerTimeout is %v, more than PingInterval (%v) needed", c.PeerTimeout, c.PingInterval)
	bad(c.RaftTimeout <= 0, "RaftTimeout is %v, must be positive", c.RaftTimeout)
	bad(c.PipelineInFlight < 2, "PipelineInFlight is %d, at least 2 needed", c.PipelineInFlight)
	bad(c.HeartbeatHold < 0, "HeartbeatHold is %v, must not be negative", c.HeartbeatHold)
	bad(c.HeartbeatTimeout <= c.HeartbeatHold, "HeartbeatTimeout is %v, more than HeartbeatHold (%v) needed", c.HeartbeatTimeout, c.HeartbeatHold)
	bad(c.HeartbeatInterval < 0, "HeartbeatInterval is %v, must not be negative", c.HeartbeatInterval)
	bad(c.SnapshotWindow < 64<<10 || c.SnapshotWindow > 64<<20, "SnapshotWindow is %d, 64 KiB to 64 MiB allowed", c.SnapshotWindow)
	bad(c.SnapshotStall <= 0, "SnapshotStall is %v, must be positive", c.SnapshotStall)
	bad(c.SnapshotAnswer <= 0, "SnapshotAnswer is %v, must be positive", c.SnapshotAnswer)
	return errors.Join(errs...)
}

// Mux is one node's end of the links to the other nodes of its region. All
// methods may be called from any goroutine.
type Mux struct {
	cfg    Config
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines of dialed connections

	mu       sync.RWMutex
	closed   bool
	handlers map[Kind]Handler
	peers    map[string]*peer
	groups   map[uint32]*RaftTransport
	accepted map[string]*accepted // by the dialing node: the newest connection
}

// New returns a Mux that neither listens nor dials yet. Its error names every
// bad field of cfg.
func New(cfg Config) (*Mux, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("link settings: %w", err)
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Mux{
		cfg:      cfg,
		log:      log.With(slog.String("node", cfg.Self)),
		ctx:      ctx,
		cancel:   cancel,
		handlers: make(map[Kind]Handler),
		peers:    make(map[string]*peer),
		groups:   make(map[uint32]*RaftTransport),
		accepted: make(map[string]*accepted),
	}, nil
}

// Handle makes h answer the calls of kind k. Call it before Serve. A kind
// below 16, taken already, or a nil handler is a bug and panics.
func (m *Mux) Handle(k Kind, h Handler) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k < kindUser || h == nil || m.handlers[k] != nil {
		panic(fmt.Sprintf("link: handler for kind %d: kinds 0 to %d are reserved, one non-nil handler each", k, kindUser-1))
	}
	m.handlers[k] = h
}

func (m *Mux) handler(k Kind) Handler {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.handlers[k]
}

// Call sends payload to a node and returns its handler's answer. The time
// limit of ctx travels along; when ctx ends, Call returns at once and the
// handler's context ends too. payload is not kept. To this node itself the
// handler runs on the caller's goroutine, without copies or bounds.
//
// The sentinels of this package say what an error means; *Error is the
// handler's own.
func (m *Mux) Call(ctx context.Context, node string, k Kind, payload []byte) ([]byte, error) {
	if k < kindUser {
		return nil, fmt.Errorf("call %s: kind %d is reserved: %w", node, k, ErrUnknownKind)
	}
	if node == m.cfg.Self {
		return m.callSelf(ctx, k, payload)
	}
	answer, err := m.exchange(ctx, node, k, payload)
	var crossed *Error
	switch {
	case err == nil:
		return answer, nil
	case errors.As(err, &crossed):
		return nil, crossed
	default:
		return nil, fmt.Errorf("call %s kind %d: %w", node, k, err)
	}
}

// exchange sends one user's call, on a fresh connection if the one at hand
// ended before the call was on it.
func (m *Mux) exchange(ctx context.Context, node string, k Kind, payload []byte) ([]byte, error) {
	if len(payload)+frameOverhead > m.cfg.FrameBytesMax {
		return nil, fmt.Errorf("%w: %d bytes, bound %d", ErrTooLarge, len(payload), m.cfg.FrameBytesMax)
	}
	for try := 0; ; try++ {
		c, err := m.connect(ctx, node)
		if err != nil {
			return nil, err
		}
		p, err := c.startUser(ctx, k, payload)
		if errors.Is(err, errGone) && try == 0 {
			continue
		}
		if errors.Is(err, errGone) {
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		if err != nil {
			return nil, err
		}
		return c.wait(ctx, p)
	}
}

func (m *Mux) callSelf(ctx context.Context, k Kind, payload []byte) ([]byte, error) {
	if m.ctx.Err() != nil {
		return nil, fmt.Errorf("call %s kind %d: %w: %w", m.cfg.Self, k, ErrClosed, ErrUnreachable)
	}
	h := m.handler(k)
	if h == nil {
		return nil, fmt.Errorf("call %s kind %d: %w", m.cfg.Self, k, ErrUnknownKind)
	}
	answer, err := h(ctx, m.cfg.Self, payload)
	if err != nil {
		return nil, asError(err)
	}
	return answer, nil
}

// Close ends all connections and returns when the goroutines of those that
// this node dialed are gone; Serve returns on its own. Calls under way fail
// with ErrClosed and ErrConnectionLost, later ones with ErrClosed and
// ErrUnreachable. Closing twice is fine.
func (m *Mux) Close() error {
	m.mu.Lock()
	m.closed = true
	peers := make([]*peer, 0, len(m.peers))
	for _, p := range m.peers {
		peers = append(peers, p)
	}
	m.mu.Unlock()
	// First the context, then the connections: a dial that ends in between
	// sees the context and drops what it made.
	m.cancel()
	for _, p := range peers {
		if c := p.current(); c != nil {
			c.fail(ErrClosed)
		}
	}
	m.wg.Wait()
	return nil
}

// spawn runs f on a goroutine that Close waits for, or not at all after Close.
func (m *Mux) spawn(f func()) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed {
		return false
	}
	m.wg.Go(f)
	return true
}

// group returns the transport that serves a raft group here, or nil.
func (m *Mux) group(id uint32) *RaftTransport {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.groups[id]
}
