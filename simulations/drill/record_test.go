package drill

import (
	"reflect"
	"testing"
	"time"
)

const ms = time.Millisecond

func TestBuckets(t *testing.T) {
	calls := []call{
		{end: 10 * ms, took: 5 * ms, ok: true},
		{end: 99 * ms, took: 7 * ms, ok: true},
		{end: 100 * ms, took: 9 * ms},
		{end: 250 * ms, took: 90 * ms, ok: true},
		{end: 900 * ms, ok: true}, // after the end
	}
	got := buckets(calls, 100*ms, 250*ms+1)
	want := []bucket{{2, 0, 7 * ms, 7 * ms}, {0, 1, 0, 0}, {1, 0, 90 * ms, 90 * ms}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got := buckets(nil, 100*ms, 0); len(got) != 1 {
		t.Errorf("of nothing: %+v", got)
	}
}

func TestQuantile(t *testing.T) {
	var all []time.Duration
	for i := range 100 {
		all = append(all, time.Duration(i))
	}
	if quantile(all, 0.5) != 50 || quantile(all, 0.99) != 99 || quantile(all[:1], 0.99) != 0 || quantile(nil, 0.5) != 0 {
		t.Error("quantiles")
	}
}

// TestOutages finds the planted ones: of one shard, of two that overlap, and one
// that lasts to the end.
func TestOutages(t *testing.T) {
	at := func(region string, shard, begin, end int, ok bool) probe {
		return probe{region, shard, time.Duration(begin) * ms, time.Duration(end) * ms, ok}
	}
	probes := []probe{
		at("eu", 0, 0, 10, false),
		at("us", 0, 0, 5, true), at("us", 0, 100, 200, false), at("us", 0, 200, 300, false), at("us", 0, 300, 310, true),
		at("us", 1, 0, 5, true), at("us", 1, 250, 350, false), at("us", 1, 350, 400, true), at("us", 1, 500, 505, true),
		at("us", 0, 500, 505, true), at("us", 0, 900, 950, false),
	}
	got := outages(probes, "us")
	want := []outage{{100 * ms, 400 * ms}, {900 * ms, 950 * ms}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if longest(got) != 300*ms || longest(nil) != 0 {
		t.Errorf("longest %v", longest(got))
	}
	if got := outages(probes, "ap"); len(got) != 0 {
		t.Errorf("of a region without probes: %v", got)
	}
}

func TestBands(t *testing.T) {
	r := newRecorder()
	r.enter("a")
	r.enter("b")
	r.leave("a")
	r.leave("never entered")
	if r.bands[0].to == 0 || r.bands[1].to != 0 {
		t.Errorf("%+v", r.bands)
	}
	r.leaveAll()
	if r.bands[1].to == 0 || r.bands[1].to < r.bands[0].to {
		t.Errorf("%+v", r.bands)
	}
}

func TestWaitedMost(t *testing.T) {
	calls := []call{{ok: true, waited: 3}, {waited: 9}, {ok: true, waited: 5}}
	if got := waitedMost(calls); got != 5 {
		t.Errorf("%v", got)
	}
}
