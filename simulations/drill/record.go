package drill

import (
	"slices"
	"sync"
	"time"
)

// recorder takes down what happens while a drill runs; times are since its
// begin. It is safe for concurrent use.
type recorder struct {
	begun time.Time

	mu sync.Mutex // guards what follows
	record
}

// record is what was taken down. What is drawn and judged is computed from it
// by pure functions.
type record struct {
	calls  []call
	probes []probe
	lags   []lagSample
	bands  []band
	notes  []note
}

// call is one call of a shopper, with all that the client tried for it.
type call struct {
	end, took     time.Duration
	ok            bool
	edit, stale   bool
	region        string        // that answered
	waited        time.Duration // since the shopper first asked in vain; of an answered call
	again, denied bool          // it took more than one attempt; the answer was a refusal
}

// probe is one edit that a region alone must make.
type probe struct {
	region     string
	shard      int
	begin, end time.Duration
	ok         bool
}

// lagSample is how far the furthest peer of a region was behind.
type lagSample struct {
	at     time.Duration
	region string
	lag    time.Duration
}

// band is a time in which a fault was in force.
type band struct {
	label    string
	from, to time.Duration // to is 0 while it lasts
}

// note is one thing that was done.
type note struct {
	at   time.Duration
	text string
}

func newRecorder() *recorder { return &recorder{begun: time.Now()} }

func (r *recorder) since() time.Duration { return time.Since(r.begun) }

func (r *recorder) do(f func(*record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.record)
}

func (r *recorder) call(c call)     { r.do(func(x *record) { x.calls = append(x.calls, c) }) }
func (r *recorder) probe(p probe)   { r.do(func(x *record) { x.probes = append(x.probes, p) }) }
func (r *recorder) lag(l lagSample) { r.do(func(x *record) { x.lags = append(x.lags, l) }) }
func (r *recorder) note(text string) {
	r.do(func(x *record) { x.notes = append(x.notes, note{r.since(), text}) })
}
func (r *recorder) enter(label string) {
	r.do(func(x *record) { x.bands = append(x.bands, band{label: label, from: r.since()}) })
}
func (r *recorder) leave(label string) {
	r.do(func(x *record) {
		for i := range x.bands {
			if x.bands[i].label == label && x.bands[i].to == 0 {
				x.bands[i].to = r.since()
			}
		}
	})
}

// leaveAll ends the bands that are left.
func (r *recorder) leaveAll() {
	r.do(func(x *record) {
		for i := range x.bands {
			if x.bands[i].to == 0 {
				x.bands[i].to = r.since()
			}
		}
	})
}

// bucket is what ended in one stretch of time.
type bucket struct {
	OK, Failed int
	P50, P99   time.Duration // of the calls that were answered; 0: none was
}

// buckets sorts calls by their end.
func buckets(calls []call, width, until time.Duration) []bucket {
	out := make([]bucket, max(1, int((until+width-1)/width)))
	took := make([][]time.Duration, len(out))
	for _, c := range calls {
		i := int(c.end / width)
		if i >= len(out) {
			continue
		}
		if !c.ok {
			out[i].Failed++
			continue
		}
		out[i].OK++
		took[i] = append(took[i], c.took)
	}
	for i, t := range took {
		slices.Sort(t)
		out[i].P50, out[i].P99 = quantile(t, 0.5), quantile(t, 0.99)
	}
	return out
}

// quantile is of sorted values, by the nearest rank; 0 when there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// waitedMost is the longest time that a shopper had no answer, from the first call
// that was made in vain.
func waitedMost(calls []call) (most time.Duration) {
	for _, c := range calls {
		if c.ok {
			most = max(most, c.waited)
		}
	}
	return most
}

// outage is a time in which a shard of a region made no edit.
type outage struct{ from, to time.Duration }

// outages are those of a region: from the begin of the first probe in vain to
// the end of the next that was answered, or to the last. Times of its shards
// that overlap are one.
func outages(probes []probe, region string) (out []outage) {
	byShard := make(map[int][]probe)
	for _, p := range probes {
		if p.region == region {
			byShard[p.shard] = append(byShard[p.shard], p)
		}
	}
	var all []outage
	for _, list := range byShard {
		slices.SortFunc(list, func(a, b probe) int { return int(a.begin - b.begin) })
		var open *outage
		for _, p := range list {
			switch {
			case p.ok && open != nil:
				open.to = p.end
				all, open = append(all, *open), nil
			case !p.ok && open == nil:
				open = &outage{from: p.begin}
			}
			if open != nil {
				open.to = p.end
			}
		}
		if open != nil {
			all = append(all, *open)
		}
	}
	slices.SortFunc(all, func(a, b outage) int { return int(a.from - b.from) })
	for _, o := range all {
		if n := len(out); n > 0 && o.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, o.to)
			continue
		}
		out = append(out, o)
	}
	return out
}

// longest is that of the outages.
func longest(all []outage) (most time.Duration) {
	for _, o := range all {
		most = max(most, o.to-o.from)
	}
	return most
}
