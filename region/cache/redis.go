package cache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// storeIfNewer sets KEYS[1] to ARGV[1] for ARGV[2] milliseconds unless it
// holds the same or a newer version. It returns 1 if it set, 0 if it kept.
//
//	R1  Only the header is read: a cart's bytes never enter Lua.
//	R2  Bytes are compared one by one. Lua's < on strings goes through strcoll,
//	    whose order depends on the locale that Redis was started in.
//	R3  What is not ours (another type, too short, another magic) is overwritten.
const storeIfNewer = `
local held = redis.pcall('GETRANGE', KEYS[1], 0, 19)
if type(held) == 'string' and #held == 20 and string.sub(held, 1, 4) == string.sub(ARGV[1], 1, 4) then
  local newer = false
  for i = 5, 20 do
    local n, h = string.byte(ARGV[1], i), string.byte(held, i)
    if n < h then return 0 end
    if n > h then newer = true break end
  end
  if not newer then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`

// remote is the Cache in Redis.
type remote struct {
	cfg      RedisConfig
	client   redis.UniversalClient
	script   *redis.Script
	breakers *breakers
}

// NewRedis returns a cache in the Redis at cfg.Address. It connects lazily:
// an error means that cfg is wrong, never that Redis is away.
func NewRedis(cfg RedisConfig) (Cache, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("redis cache config: %w", err)
	}
	return newRemote(cfg), nil
}

func newRemote(cfg RedisConfig) *remote {
	a := cfg.Address
	opts := &redis.UniversalOptions{
		Addrs:            a.Hosts,
		DB:               a.DB,
		Username:         a.Username,
		Password:         a.Password,
		MasterName:       a.Master,
		IsClusterMode:    a.Form == Cluster,
		SentinelUsername: cfg.SentinelUsername,
		SentinelPassword: cfg.SentinelPassword,

		// RESP2: nothing here needs push messages, and client-side caching,
		// which does, is experimental.
		Protocol:                 2,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},

		// Each call gets one try inside OpTimeout. A retry would come when Redis
		// is in trouble, and multiply the load that may have caused it.
		MaxRetries:            -1,
		DialerRetries:         1,
		ContextTimeoutEnabled: true,
		DialTimeout:           cfg.DialTimeout,
		ReadTimeout:           cfg.OpTimeout,
		WriteTimeout:          cfg.OpTimeout,
		PoolTimeout:           cfg.OpTimeout,
		PoolSize:              cfg.PoolSize,
		PipelinePoolSize:      2, // batches of the apply path do not stand before shoppers' loads
		ConnMaxIdleTime:       5 * time.Minute,
	}
	if a.Form == Cluster {
		opts.MaxRedirects = 3 // a slot on the move answers MOVED or ASK; this is no retry
	}
	if a.TLS {
		opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		if cfg.TLS != nil {
			opts.TLSConfig = cfg.TLS.Clone()
		}
	}
	return &remote{
		cfg:      cfg,
		client:   redis.NewUniversalClient(opts),
		script:   redis.NewScript(storeIfNewer),
		breakers: newBreakers(cfg),
	}
}

func (r *remote) Load(ctx context.Context, key string) (Entry, bool) {
	return r.load(ctx, key, func(ctx context.Context, key string) ([]byte, error) { return r.client.Get(ctx, key).Bytes() })
}

// LoadHead reads as much as it wants alone: GETRANGE of a key that is not there is
// empty.
func (r *remote) LoadHead(ctx context.Context, key string, n int) (Entry, bool) {
	return r.load(ctx, key, func(ctx context.Context, key string) ([]byte, error) {
		b, err := r.client.GetRange(ctx, key, 0, int64(headerSize+n-1)).Bytes()
		if err == nil && len(b) == 0 {
			err = redis.Nil
		}
		return b, err
	})
}

func (r *remote) load(ctx context.Context, key string, get func(context.Context, string) ([]byte, error)) (Entry, bool) {
	start := time.Now()
	key = r.cfg.Prefix + key
	done, err := r.breakers.allow(r.breakers.index(key))
	if err != nil {
		r.cfg.Events.done(Done{Op: OpLoad, Outcome: Skipped, Count: 1, Took: time.Since(start)})
		return Entry{}, false
	}
	opCtx, cancel := context.WithTimeout(ctx, r.cfg.OpTimeout)
	defer cancel()
	raw, err := get(opCtx, key)
	verdict := r.judge(ctx, start, err)
	done(verdict)

	d := Done{Op: OpLoad, Count: 1, Took: time.Since(start)}
	var e Entry
	switch {
	case errors.Is(err, redis.Nil):
		d.Outcome = Miss
	case redis.HasErrorPrefix(err, "WRONGTYPE"):
		d.Outcome = Corrupt
	case err != nil:
		d.Outcome, d.Err = outcomeOf(verdict), fmt.Errorf("load %q from redis: %w", key, err)
	default:
		d.Outcome = Hit
		if e, err = decode(raw); err != nil {
			d.Outcome = Corrupt
		}
	}
	r.cfg.Events.done(d)
	return e, d.Outcome == Hit
}

func (r *remote) Store(ctx context.Context, key string, e Entry) {
	r.StoreMany(ctx, []string{key}, []Entry{e})
}

// StoreMany sends EVALSHA for every key in one pipeline, and EVAL in a second
// one for those whose node did not know the script. OpTimeout covers both.
func (r *remote) StoreMany(ctx context.Context, keys []string, es []Entry) {
	mustPair(keys, es)
	start := time.Now()
	opCtx, cancel := context.WithTimeout(ctx, r.cfg.OpTimeout)
	defer cancel()

	b := batch{remote: r, ctx: opCtx, groups: make(map[int]*group, 1)}
	skipped := 0
	for i, key := range keys {
		key = r.cfg.Prefix + key
		if g := b.group(key); g == nil {
			skipped++
		} else {
			b.ops = append(b.ops, &storeOp{key: key, value: encode(es[i]), ttl: r.ttl(es[i]), group: g})
		}
	}
	if len(b.ops) > 0 {
		if unknown := b.send(b.ops, r.script.EvalSha); len(unknown) > 0 {
			b.send(unknown, r.script.Eval)
		}
	}
	counts := map[Outcome]int{Skipped: skipped}
	var first error
	for _, op := range b.ops {
		out := Kept
		if verdict := r.judge(ctx, start, op.err); op.err != nil {
			out = outcomeOf(verdict)
			op.group.fail(verdict)
			if first == nil {
				first = fmt.Errorf("store %q in redis: %w", op.key, op.err)
			}
		} else if op.set {
			out = Stored
		}
		counts[out]++
	}
	for _, g := range b.groups {
		if g != nil {
			g.done(g.err)
		}
	}
	took := time.Since(start)
	for _, out := range []Outcome{Stored, Kept, Skipped} {
		r.cfg.Events.done(Done{Op: OpStore, Outcome: out, Count: counts[out], Took: took})
	}
	for _, out := range []Outcome{Failed, Cancelled} {
		r.cfg.Events.done(Done{Op: OpStore, Outcome: out, Count: counts[out], Took: took, Err: first})
	}
}

// storeOp is one key of a batch and what became of it.
type storeOp struct {
	key   string
	value []byte
	ttl   time.Duration
	group *group
	set   bool
	err   error
}

// group is the part of a batch that one breaker watches.
type group struct {
	done func(error)
	err  error // what done will hear: a failure wins over a caller that left
}

func (g *group) fail(verdict error) {
	if verdict != nil && (g.err == nil || errors.Is(g.err, errCallerLeft)) {
		g.err = verdict
	}
}

type batch struct {
	*remote
	ctx    context.Context
	ops    []*storeOp
	groups map[int]*group // nil value: that breaker is open
}

// group returns the group of key, nil if its breaker is open.
func (b *batch) group(key string) *group {
	i := b.breakers.index(key)
	g, known := b.groups[i]
	if !known {
		if done, err := b.breakers.allow(i); err == nil {
			g = &group{done: done}
		}
		b.groups[i] = g
	}
	return g
}

type evalFunc func(ctx context.Context, c redis.Scripter, keys []string, args ...any) *redis.Cmd

// send runs ops in one pipeline and notes each result. It returns the ops
// whose node does not have the script.
func (b *batch) send(ops []*storeOp, eval evalFunc) []*storeOp {
	pipe := b.client.Pipeline()
	cmds := make([]*redis.Cmd, len(ops))
	for i, op := range ops {
		cmds[i] = eval(b.ctx, pipe, []string{op.key}, op.value, op.ttl.Milliseconds())
	}
	_, _ = pipe.Exec(b.ctx) // the first error of cmds, which are read one by one
	var unknown []*storeOp
	for i, cmd := range cmds {
		n, err := cmd.Int()
		ops[i].set, ops[i].err = n == 1, err
		if errors.Is(err, redis.ErrNoScript) || redis.HasErrorPrefix(err, "NOSCRIPT") {
			unknown = append(unknown, ops[i])
		}
	}
	return unknown
}

// ttl is shorter than the setting by a random part, never longer.
func (r *remote) ttl(e Entry) time.Duration {
	ttl := r.cfg.TTL
	if len(e.Data) == 0 {
		ttl = r.cfg.TombstoneTTL
	}
	return ttl - time.Duration(rand.Float64()*r.cfg.TTLJitter*float64(ttl))
}

// errCallerLeft is a verdict that says nothing about Redis.
var errCallerLeft = errors.New("caller left")

// judge turns the error of a call into what the breaker should hear.
func (r *remote) judge(callerCtx context.Context, start time.Time, err error) error {
	switch {
	case err == nil, errors.Is(err, redis.Nil):
		return nil
	case redis.HasErrorPrefix(err, "WRONGTYPE"), redis.HasErrorPrefix(err, "OOM"):
		return nil // a quick answer about this key or about writes; loads still work
	case ended(callerCtx) && time.Since(start) < r.cfg.OpTimeout/2:
		// Callers whose own deadline is short would else never find out that
		// Redis is slow, hence the half.
		return errCallerLeft
	}
	return err
}

// ended looks at the clock too: a socket deadline taken from ctx may fire
// before the timer of ctx does.
func ended(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() != nil || ok && !time.Now().Before(deadline)
}

func outcomeOf(verdict error) Outcome {
	if errors.Is(verdict, errCallerLeft) {
		return Cancelled
	}
	return Failed
}

func (r *remote) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.OpTimeout)
	defer cancel()
	if err := r.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ping redis at %v: %w", r.cfg.Address.Hosts, err)
	}
	return nil
}

func (r *remote) Close() error {
	if err := r.client.Close(); err != nil {
		return fmt.Errorf("close redis client: %w", err)
	}
	return nil
}
