package drill

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/rpc/client"
	"github.com/samecart/samecart/rpc/scan"
)

const (
	probeEvery = 200 * time.Millisecond
	// probeTimeout is after what a probe counts as not answered: less than an
	// edit may take in a region that works.
	probeTimeout = time.Second
	lagEvery     = 250 * time.Millisecond
	// lagMost is the lag that a region which has recovered may have.
	lagMost = time.Second
)

// watcher asks each region for itself how it is, until it is stopped.
type watcher struct {
	cluster cluster
	rec     *recorder
	http    *http.Client
	stop    context.CancelFunc
	ended   sync.WaitGroup
	users   map[string][]string // of the probes, by region
}

// watch begins to: an edit of one cart in each shard of each region, and the lag.
func watch(ctx context.Context, c cluster, rec *recorder, tag string) (*watcher, error) {
	w := &watcher{cluster: c, rec: rec, http: &http.Client{Transport: far(nil)}, users: make(map[string][]string)}
	shards := make(map[string]int)
	for _, region := range c.regions() {
		status, err := c.admin(region).Status(ctx)
		if err != nil {
			return nil, err
		}
		if shards[region] = len(regionOf(status, region).GetShards()); shards[region] == 0 {
			return nil, fmt.Errorf("region %s shows no shards", region)
		}
	}
	ctx, w.stop = context.WithCancel(context.Background())
	for _, region := range c.regions() {
		w.users[region] = usersOf(fmt.Sprintf("drill-%s-probe-%s", tag, region), shards[region])
		for id, user := range w.users[region] {
			w.ended.Go(func() {
				n := 0
				every(ctx, probeEvery, func() {
					n++
					p := probe{region: region, shard: id, begin: rec.since()}
					p.ok = w.edits(ctx, region, user, n)
					p.end = rec.since()
					if ctx.Err() == nil {
						rec.probe(p)
					}
				})
			})
		}
		w.ended.Go(func() {
			every(ctx, lagEvery, func() {
				limited, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				if status, err := c.admin(region).Status(limited); err == nil {
					rec.lag(lagSample{rec.since(), region, lagOf(regionOf(status, region))})
				}
			})
		})
	}
	return w, nil
}

// usersOf returns a name for each shard, whose cart is there.
func usersOf(prefix string, shards int) []string {
	slots := shard.NewSlots(uint32(shards))
	out := make([]string, shards)
	for i, left := 0, shards; left > 0; i++ {
		user := fmt.Sprintf("%s-%d", prefix, i)
		if at := slots.Shard(slots.Of("cart:" + user)); out[at] == "" {
			out[at] = user
			left--
		}
	}
	return out
}

func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		f()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// finish stops the probes.
func (w *watcher) finish() {
	w.stop()
	w.ended.Wait()
}

func (w *watcher) close() {
	w.finish()
	w.http.CloseIdleConnections()
}

// empty removes what the probes have put into carts.
func (w *watcher) empty(ctx context.Context) error {
	var errs []error
	for region, users := range w.users {
		for _, user := range users {
			_, err := w.ask(ctx, http.MethodDelete, w.cluster.base(region)+"/api/v1/cart", user, "")
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// probeLines is how many lines a probe's cart has: none reaches its cap in the
// longest drill.
const probeLines = 40

// edits reports whether a region makes an edit by itself.
func (w *watcher) edits(ctx context.Context, region, user string, n int) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	item := fmt.Sprintf(`{"sku_id":"SKU-%d","quantity":1}`, n%probeLines+1)
	_, err := w.ask(ctx, http.MethodPost, w.cluster.base(region)+"/api/v1/cart/items", user, item)
	return err == nil
}

// ask makes one call that no gateway passes on to another region.
func (w *watcher) ask(ctx context.Context, method, url, user, body string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-User-Id", user)
	req.Header.Set(client.ForwardedHeader, "drill")
	if method == http.MethodGet {
		req.Header.Set("Cart-Consistency", "strong")
	} else {
		req.Header.Set("Idempotency-Key", rand.Text())
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s %s: %s %.200s", method, url, resp.Status, strings.TrimSpace(string(answer)))
	}
	return answer, nil
}

// cart reads what a region holds.
func (w *watcher) cart(ctx context.Context, region, user string) (map[string]uint32, error) {
	body, err := w.ask(ctx, http.MethodGet, w.cluster.base(region)+"/api/v1/cart", user, "")
	if err != nil {
		return nil, err
	}
	var answer struct {
		Items []struct {
			SKU      string `json:"sku_id"`
			Quantity uint32 `json:"quantity"`
		} `json:"items"`
		Stale bool `json:"stale"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("cart of %s in %s: %w", user, region, err)
	}
	if answer.Stale {
		return nil, fmt.Errorf("cart of %s in %s is stale", user, region)
	}
	out := make(map[string]uint32)
	for _, item := range answer.Items {
		out[item.SKU] += item.Quantity
	}
	return out, nil
}

// only is a region of which no carts are shown but those with a prefix.
func only(region scan.Region, prefix string) scan.Region {
	open := region.Open
	region.Open = func(ctx context.Context, lo, hi uint32) (scan.Stream, error) {
		s, err := open(ctx, lo, hi)
		if err != nil {
			return nil, err
		}
		return filtered{s, prefix}, nil
	}
	return region
}

type filtered struct {
	scan.Stream

	prefix string
}

// Next implements scan.Stream.
func (f filtered) Next() (scan.Cart, bool, error) {
	for {
		c, ok, err := f.Stream.Next()
		if !ok || err != nil || strings.HasPrefix(c.ID, f.prefix) {
			return c, ok, err
		}
	}
}

// lagOf is how far the furthest peer of a region is behind.
func lagOf(r *adminv1.RegionStatus) (most time.Duration) {
	for _, s := range r.GetShards() {
		for _, p := range s.GetPeers() {
			most = max(most, time.Duration(p.GetLagMs())*time.Millisecond)
		}
	}
	return most
}

// well is nil when a region is as before a fault, as it says itself.
func well(ctx context.Context, c cluster, region string) error {
	status, err := c.admin(region).Status(ctx)
	if err != nil {
		return err
	}
	r := regionOf(status, region)
	if !r.GetReady() {
		return fmt.Errorf("region %s does not take edits", region)
	}
	for _, n := range r.GetNodes() {
		if !n.GetAlive() {
			return fmt.Errorf("node %s does not answer", n.GetNode())
		}
	}
	for _, s := range r.GetShards() {
		if s.GetLeader() == "" {
			return fmt.Errorf("shard %d of region %s has no leader", s.GetShard(), region)
		}
		if len(s.GetPeers()) == 0 {
			return fmt.Errorf("shard %d of region %s sends to no other region", s.GetShard(), region)
		}
		for _, p := range s.GetPeers() {
			switch {
			case !p.GetConnected():
				return fmt.Errorf("region %s is not connected to %s: %s", region, p.GetRegion(), p.GetLastError())
			case p.GetVia() != "":
				return fmt.Errorf("region %s still reaches %s through %s", region, p.GetRegion(), p.GetVia())
			case p.GetRepairing():
				return fmt.Errorf("region %s is being compared with %s", region, p.GetRegion())
			case time.Duration(p.GetLagMs())*time.Millisecond > lagMost:
				return fmt.Errorf("region %s is %d ms ahead of %s", region, p.GetLagMs(), p.GetRegion())
			}
		}
	}
	return nil
}

// allWell is nil when all regions are.
func allWell(ctx context.Context, c cluster) error {
	errs := make([]error, len(c.regions()))
	var all sync.WaitGroup
	for i, region := range c.regions() {
		all.Go(func() { errs[i] = well(ctx, c, region) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// leader returns the node that leads a region's first shard.
func leader(ctx context.Context, c cluster, region string) (node string, err error) {
	err = poll(ctx, 10*time.Second, func(ctx context.Context) error {
		status, err := c.admin(region).Status(ctx)
		if err != nil {
			return err
		}
		shards := regionOf(status, region).GetShards()
		if len(shards) == 0 || shards[0].GetLeader() == "" {
			return fmt.Errorf("the first shard of region %s has no leader", region)
		}
		node = shards[0].GetLeader()
		return nil
	})
	return node, err
}
