package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"
)

var (
	errRunning  = errors.New("the client runs already")
	errNotReady = errors.New("not ready")
)

// listBytesMax bounds a list of regions.
const listBytesMax = 1 << 20

// Run learns the regions and measures them, until ctx ends or the client is
// closed; then it returns nil. It returns an error when the client runs
// already or was closed before.
func (c *Client) Run(ctx context.Context) error {
	if !c.running.TryLock() {
		return errRunning
	}
	defer c.running.Unlock()
	done, err := c.begin()
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := c.withClosed(ctx)
	defer cancel()
	c.learn(ctx)
	return nil
}

// learn learns the regions, unless they were given, and measures them, until
// ctx ends.
func (g *guide) learn(ctx context.Context) {
	var listAt time.Time
	for ctx.Err() == nil {
		now := time.Now()
		if g.home == nil && !now.Before(listAt) {
			every := g.cfg.DiscoverEvery
			if !g.discover(ctx) {
				every = min(every, g.cfg.ProbeEvery)
			}
			listAt = time.Now().Add(time.Duration(float64(every) * (0.8 + 0.4*jitter())))
		}
		g.mu.Lock()
		due, next := g.regions.due(time.Now())
		g.mu.Unlock()
		if len(due) > 0 {
			g.probeAll(ctx, due)
			continue
		}
		if g.home == nil && (next.IsZero() || listAt.Before(next)) {
			next = listAt
		}
		g.rest(ctx, time.Until(next))
	}
}

// rest waits until the next probe is due, or a failed call asks for one.
func (g *guide) rest(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-g.poke:
	case <-ctx.Done():
	}
}

// discover asks for the list of regions, one region after the other, until
// one gives it.
func (g *guide) discover(ctx context.Context) (ok bool) {
	order, _ := g.order("")
	for _, address := range order {
		list, err := g.list(ctx, address)
		if ctx.Err() != nil {
			return false
		}
		tell(g.cfg.Events.Listed, Listed{From: g.label(address), Regions: len(list), Err: err})
		if len(list) == 0 {
			continue
		}
		g.update(func(now time.Time) notices { return g.regions.learn(now, list) })
		return true
	}
	return false
}

// list returns the regions that a region names. Those whose address cannot
// be used are left out, and named by the error.
func (g *guide) list(ctx context.Context, address string) ([]listing, error) {
	var body struct {
		Regions []struct {
			Region  string `json:"region"`
			Address string `json:"address"`
			Healthy bool   `json:"healthy"`
		} `json:"regions"`
	}
	err := g.fetch(ctx, address+"/api/v1/regions", func(r io.Reader) error {
		return json.NewDecoder(io.LimitReader(r, listBytesMax)).Decode(&body)
	})
	if err != nil {
		return nil, fmt.Errorf("list regions: %w", err)
	}
	var out []listing
	var errs []error
	for _, r := range body.Regions {
		if r.Address == "" && len(body.Regions) == 1 {
			// A region that knows only itself: it is where it was asked.
			r.Address = address
		}
		base, err := baseURL(r.Address)
		if err == nil && strings.HasPrefix(g.seed, "https:") && !strings.HasPrefix(base, "https:") {
			// Else whoever forges a list would be shown bearer tokens.
			err = fmt.Errorf("address %q is without TLS, the client's own is not", r.Address)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("list regions: region %q: %w", r.Region, err))
			continue
		}
		out = append(out, listing{name: r.Region, address: base, healthy: r.Healthy})
	}
	return out, errors.Join(errs...)
}

// fetch GETs a URL and has its body read when the answer is 200.
func (g *guide) fetch(ctx context.Context, target string, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, g.cfg.ProbeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return err
	}
	resp, err := g.unary.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%w: status %d", errNotReady, resp.StatusCode)
	}
	return read(resp.Body)
}

// probeAll probes regions at the same time.
func (g *guide) probeAll(ctx context.Context, due []string) {
	var probing sync.WaitGroup
	for _, address := range due {
		probing.Go(func() { g.probe(ctx, address) })
	}
	probing.Wait()
}

// probe measures one region: /readyz, from the request's last byte to the
// answer's first, so that making a connection does not count.
func (g *guide) probe(ctx context.Context, address string) {
	var mu sync.Mutex // a trace may be called from the transport's goroutines, later too
	sent := time.Now()
	var first time.Time
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) {
			mu.Lock()
			defer mu.Unlock()
			sent = time.Now()
		},
		GotFirstResponseByte: func() {
			mu.Lock()
			defer mu.Unlock()
			first = time.Now()
		},
	})
	var err error
	if g.home != nil && address == g.seed {
		limited, cancel := context.WithTimeout(ctx, g.cfg.ProbeTimeout)
		err = g.home(limited)
		cancel()
	} else {
		err = g.fetch(traced, address+"/readyz", func(r io.Reader) error {
			_, err := io.Copy(io.Discard, io.LimitReader(r, listBytesMax))
			return err
		})
	}
	if ctx.Err() != nil {
		return // no news of the region
	}
	mu.Lock()
	if first.IsZero() {
		first = time.Now()
	}
	rtt := first.Sub(sent)
	mu.Unlock()
	why := ""
	if err != nil {
		why = err.Error()
	}
	tell(g.cfg.Events.Probed, Probed{Region: g.label(address), RTT: rtt, Err: err})
	g.update(func(now time.Time) notices { return g.regions.probed(now, address, rtt, why, jitter()) })
}
