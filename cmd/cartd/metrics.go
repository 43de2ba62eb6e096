package main

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/replication"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/member"
)

// metrics turns the packages' events into Prometheus metrics, in a registry
// of its own.
type metrics struct {
	registry *prometheus.Registry

	calls     *prometheus.HistogramVec
	entries   *prometheus.CounterVec
	commands  *prometheus.CounterVec
	index     *prometheus.GaugeVec
	frames    *prometheus.CounterVec
	writes    *prometheus.CounterVec
	delivered *prometheus.HistogramVec
	connected *prometheus.GaugeVec
	repaired  *prometheus.CounterVec
	taken     *prometheus.CounterVec
	repair    *prometheus.CounterVec
	differing *prometheus.GaugeVec
	forwarded *prometheus.CounterVec
	pairs     pairGauges
	members   memberGauges

	expiredCarts, expiredLines *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "samecart_call_seconds", Help: "Duration of API calls.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}, []string{"region", "procedure", "code"}),
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "samecart_applied_entries_total", Help: "Log entries applied."}, []string{"region", "node", "shard"}),
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "samecart_applied_commands_total", Help: "Commands applied."}, []string{"region", "node", "shard"}),
		index: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "samecart_applied_index", Help: "Last log index applied."}, []string{"region", "node", "shard"}),
		frames: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "samecart_link_frames_total", Help: "Frames sent to other nodes of the region."}, []string{"region", "node"}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "samecart_link_writes_total", Help: "Writes that the frames went out in."}, []string{"region", "node"}),
		delivered: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "samecart_gossip_lag_seconds", Help: "Age of the oldest row of those a peer region acknowledged.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600},
		}, []string{"region", "peer"}),
		connected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "samecart_gossip_connected", Help: "1 while the shard's stream to the peer region is open."}, []string{"region", "peer", "shard"}),
		repaired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "samecart_repaired_carts_total", Help: "Whole carts sent by repair."}, []string{"region", "peer"}),
		taken: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "samecart_repair_taken_carts_total", Help: "Whole carts that repair took from the peer."}, []string{"region", "peer"}),
		repair: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "samecart_repair_bytes_total", Help: "Bytes of repair: whole carts sent, whole carts taken, and what it took to find them."},
			[]string{"region", "peer", "kind"}),
		differing: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "samecart_differing_slots", Help: "Slots that differed in the last comparison of digests."}, []string{"region", "peer", "shard"}),
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "samecart_forwarded_calls_total", Help: "Calls that this gateway had another region answer, by HTTP status."}, []string{"region", "peer", "status"}),
	}
	m.expiredCarts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "samecart_expired_carts_total", Help: "Carts that this region took lines out of because they were due; told by the shard's leader."}, []string{"region"})
	m.expiredLines = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "samecart_expired_lines_total", Help: "Lines that this region took out of carts because they were due; told by the shard's leader."}, []string{"region"})
	m.registry.MustRegister(m.expiredCarts, m.expiredLines, m.forwarded, &m.pairs, &m.members, m.calls, m.entries, m.commands, m.index, m.frames, m.writes, m.delivered, m.connected, m.repaired, m.taken, m.repair, m.differing,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// events are the events of a region's parts as its metrics.
func (m *metrics) events(region string) member.Events {
	return member.Events{
		Link:    func(process string) link.Events { return m.linkEvents(region, process) },
		Gossip:  m.gossipEvents(region),
		Applied: func(node string) func(uint32, shard.Applied) { return m.applied(region, node) },
		Opened:  func(node string, status func() []replication.Status) { m.pairs.of(region, node, status) },
		Closed:  func(node string) { m.pairs.forget(region, node) },
		API:     m.rpcEvents(region),
	}
}

func (m *metrics) rpcEvents(region string) rpc.Events {
	return rpc.Events{Call: func(c rpc.Call) {
		m.calls.WithLabelValues(region, c.Procedure, string(c.Code)).Observe(c.Duration.Seconds())
	}}
}

func (m *metrics) applied(region, node string) func(uint32, shard.Applied) {
	return func(id uint32, a shard.Applied) {
		s := strconv.Itoa(int(id))
		m.entries.WithLabelValues(region, node, s).Add(float64(a.Entries))
		m.commands.WithLabelValues(region, node, s).Add(float64(a.Commands))
		m.index.WithLabelValues(region, node, s).Set(float64(a.Index))
		if a.Leads { // the others apply the same
			for _, e := range a.Expired {
				m.expiredCarts.WithLabelValues(region).Inc()
				m.expiredLines.WithLabelValues(region).Add(float64(len(e.Lines)))
			}
		}
	}
}

func (m *metrics) linkEvents(region, node string) link.Events {
	frames, writes := m.frames.WithLabelValues(region, node), m.writes.WithLabelValues(region, node)
	return link.Events{Wrote: func(w link.Wrote) {
		frames.Add(float64(w.Frames))
		writes.Inc()
	}}
}

func (m *metrics) gossipEvents(region string) replication.Events {
	shardOf := func(b replication.Between) string { return strconv.Itoa(int(b.Stream.Shard)) }
	return replication.Events{
		Connected: func(e replication.Connected) {
			m.connected.WithLabelValues(region, e.Name, shardOf(e.Between)).Set(1)
		},
		Disconnected: func(e replication.Disconnected) {
			m.connected.WithLabelValues(region, e.Name, shardOf(e.Between)).Set(0)
		},
		Delivered: func(e replication.Delivered) {
			m.delivered.WithLabelValues(region, e.Name).Observe(e.Lag.Seconds())
		},
		Proved: func(e replication.ProofDone) {
			if e.Err == nil {
				m.differing.WithLabelValues(region, e.Name, shardOf(e.Between)).Set(float64(e.Different))
			}
		},
		Repaired: func(e replication.RepairDone) {
			m.repaired.WithLabelValues(region, e.Name).Add(float64(e.Carts))
			m.taken.WithLabelValues(region, e.Name).Add(float64(e.Taken))
			for kind, bytes := range map[string]int{"sent": e.Bytes, "taken": e.TakenBytes, "search": e.Search} {
				m.repair.WithLabelValues(region, e.Name, kind).Add(float64(bytes))
			}
		},
	}
}

// pairGauges reads how the shards of this process's nodes stand with the other
// regions, whenever somebody asks for the metrics.
type pairGauges struct {
	mu    sync.Mutex
	nodes map[nodeLabels]func() []replication.Status
}

type nodeLabels struct{ region, node string }

// of takes in a node until forget is called.
func (g *pairGauges) of(region, node string, status func() []replication.Status) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nodes == nil {
		g.nodes = make(map[nodeLabels]func() []replication.Status)
	}
	g.nodes[nodeLabels{region, node}] = status
}

func (g *pairGauges) forget(region, node string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.nodes, nodeLabels{region, node})
}

var (
	behindDesc = prometheus.NewDesc("samecart_gossip_behind_seconds", "Age of the oldest row that the peer region has not acknowledged.",
		[]string{"region", "node", "peer", "shard"}, nil)
	lagDesc = prometheus.NewDesc("samecart_gossip_lag_recent_seconds", "Lag of the last minute's deliveries, by quantile; 1 is the worst.",
		[]string{"region", "node", "peer", "shard", "quantile"}, nil)
	rowsDesc = prometheus.NewDesc("samecart_gossip_rows_waiting", "Rows that the peer region has not acknowledged.",
		[]string{"region", "node", "peer", "shard"}, nil)
	bytesDesc = prometheus.NewDesc("samecart_gossip_bytes_waiting", "Bytes of rows in memory or on the wire for the peer region.",
		[]string{"region", "node", "peer", "shard"}, nil)
	viaDesc = prometheus.NewDesc("samecart_gossip_relayed", "1 while calls to the peer region go through another one.",
		[]string{"region", "node", "peer", "shard"}, nil)
	provenDesc = prometheus.NewDesc("samecart_proven_equal_timestamp_seconds", "When all slots were last proven equal to the peer region's; 0: never.",
		[]string{"region", "node", "peer", "shard"}, nil)
)

// Describe implements prometheus.Collector.
func (*pairGauges) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{behindDesc, lagDesc, rowsDesc, bytesDesc, viaDesc, provenDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (g *pairGauges) Collect(ch chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for n, status := range g.nodes {
		n.collect(status(), ch)
	}
}

func (n nodeLabels) collect(all []replication.Status, ch chan<- prometheus.Metric) {
	for _, s := range all {
		labels := []string{n.region, n.node, s.Name, strconv.Itoa(int(s.Stream.Shard))}
		gauge := func(d *prometheus.Desc, v float64, more ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append(labels[:len(labels):len(labels)], more...)...)
		}
		gauge(behindDesc, s.Lag.Seconds())
		gauge(lagDesc, s.Lags.P50.Seconds(), "0.5")
		gauge(lagDesc, s.Lags.P99.Seconds(), "0.99")
		gauge(lagDesc, s.Lags.Worst.Seconds(), "1")
		gauge(rowsDesc, float64(s.LastSeq-min(s.LastSeq, s.AckedSeq)))
		gauge(bytesDesc, float64(s.BytesWaiting))
		relayed := 0.0
		if s.Via != "" {
			relayed = 1
		}
		gauge(viaDesc, relayed)
		gauge(provenDesc, float64(max(0, s.ProvenEqualAt.UnixMilli()))/1000)
	}
}

// memberGauges reads what the regions of this process know of the membership,
// whenever somebody asks for the metrics.
type memberGauges struct {
	mu      sync.Mutex
	rosters map[string]*member.Roster // by region
}

// of takes in a region for good.
func (g *memberGauges) of(region string, r *member.Roster) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.rosters == nil {
		g.rosters = make(map[string]*member.Roster)
	}
	g.rosters[region] = r
}

var (
	epochDesc = prometheus.NewDesc("samecart_membership_epoch", "Epoch of the membership of regions that the region knows; 0: none.",
		[]string{"region"}, nil)
	memberDesc = prometheus.NewDesc("samecart_member_state", "1 for the state in which the region knows a member: active, draining, drained, joining, fenced or removed.",
		[]string{"region", "member", "state"}, nil)
)

// Describe implements prometheus.Collector.
func (*memberGauges) Describe(ch chan<- *prometheus.Desc) {
	ch <- epochDesc
	ch <- memberDesc
}

// Collect implements prometheus.Collector.
func (g *memberGauges) Collect(ch chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for region, r := range g.rosters {
		m := r.Newest()
		ch <- prometheus.MustNewConstMetric(epochDesc, prometheus.GaugeValue, float64(m.GetEpoch()), region)
		for _, e := range m.GetMembers() {
			ch <- prometheus.MustNewConstMetric(memberDesc, prometheus.GaugeValue, 1, region, e.Region, e.State.Word())
		}
	}
}
