package main

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/rpc/client"
)

var (
	failoverRate     = flag.Int("failover-rate", 500, "edits a second in BenchmarkClientFailover and BenchmarkStale")
	failoverShoppers = flag.Int("failover-shoppers", 100, "shoppers who make them, five a second each as the API's limit is; a read comes after two edits")
	failoverTime     = flag.Duration("failover-time", 10*time.Second, "how long a fault lasts there")
)

// crowd is a load of many shoppers, as a shop's back end has it: production
// settings, but for the patience before calls go back to a region that is well.
func crowd(homes ...string) buying {
	return buying{
		shoppers: *failoverShoppers, homes: homes,
		every: time.Duration(*failoverShoppers) * time.Second * 2 / 3 / time.Duration(*failoverRate),
		tune:  func(c *client.Config) { c.ReturnAfter = 2 * time.Second },
	}
}

// drill is one fault and its end, while buyers buy.
type drill struct {
	name  string
	homes []string // see buying; us-east alone when there are none
	begin func(*running, *buyers)
	end   func(*running, *buyers)
}

// run makes the drill on a cartd dev of its own, fails the benchmark when a
// promise was broken, and reports the fault's figures.
func (d drill) run(b *testing.B) {
	b.Helper()
	r := start(b, "", "--ephemeral")
	how := crowd("us-east")
	if len(d.homes) > 0 {
		how = crowd(d.homes...)
		how.moveEvery = 10
	}
	load := r.buyAs(b, how)
	load.goOnFor("begin", 3*time.Second) // what is first is slow
	load.goOnFor("quiet", *failoverTime/2)
	load.enter("fault")
	d.begin(r, load)
	load.goOnFor("fault", *failoverTime)
	d.end(r, load)
	load.goOnFor("back", *failoverTime/2)
	all := load.prove()

	b.ReportMetric(0, "ns/op")
	p := load.phases["fault"]
	b.ReportMetric(float64(load.phases["quiet"].gap.Milliseconds()), "ms-gap-quiet")
	b.ReportMetric(float64(p.gap.Milliseconds()), "ms-gap")
	b.ReportMetric(float64(p.editGap.Milliseconds()), "ms-gap-edits")
	b.ReportMetric(float64(load.phases["back"].gap.Milliseconds()), "ms-gap-back")
	b.ReportMetric(float64(p.edits)/p.took.Seconds(), "edits/s")
	b.ReportMetric(float64(p.failed), "failed")
	b.ReportMetric(float64(all.acked), "acked")
	b.ReportMetric(float64(all.lost), "lost")
	b.ReportMetric(float64(all.doubled), "doubled")
	b.ReportMetric(float64(load.wrong), "violations")
	b.ReportMetric(percent(p.staleReads, p.reads), "%stale-reads")
	b.ReportMetric(percent(p.staleEdits, p.edits), "%stale-edits")
	for _, region := range regions {
		b.ReportMetric(percent(p.by[region], p.calls()), "%"+strings.ReplaceAll(region, "-", ""))
	}
}

func percent(part, of int) float64 { return 100 * float64(part) / float64(max(of, 1)) }

func kill(region string) func(*running, *buyers) {
	return func(r *running, b *buyers) { r.switchRegion(b.t, adminv1.NodeRequest_ACTION_KILL, region) }
}

func restart(region string) func(*running, *buyers) {
	return func(r *running, b *buyers) {
		b.enter("back")
		r.switchRegion(b.t, adminv1.NodeRequest_ACTION_START, region)
		b.comeBack(region)
	}
}

func silent(mute bool) func(*running, *buyers) {
	return func(r *running, b *buyers) { b.nets[0].silent.Store(&silence{hostOf(r, "us-east"), mute}) }
}

func audible(_ *running, b *buyers) {
	b.enter("back")
	b.nets[0].silent.Store(nil)
	b.comeBack("us-east")
}

// comeBack waits until calls go to a region again. Where the cores are busy,
// no region may look nearer than another for long.
func (b *buyers) comeBack(region string) {
	if within := 20 * time.Second; !b.moves(region, within) {
		b.t.Logf("calls did not come back to %s within %v", region, within)
	}
}

// BenchmarkClientFailover measures how long shoppers wait when their region
// fails under load, and how much of what they are shown is stale. It fails when
// an acknowledged edit is lost, one is made twice, or an answer lacks what its
// session has seen and is not marked. It takes some minutes, and needs no
// -benchtime.
func BenchmarkClientFailover(b *testing.B) {
	var heal func()
	for _, d := range []drill{
		{name: "killed", begin: kill("us-east"), end: restart("us-east")},
		{name: "cut-off-then-killed", begin: func(r *running, b *buyers) {
			heal = r.cut(b.t, links[0], links[1])
			b.goOnFor("cut off", 2*time.Second)
			b.enter("fault")
			kill("us-east")(r, b)
		}, end: func(r *running, b *buyers) {
			heal()
			restart("us-east")(r, b)
		}},
		{name: "deaf", begin: silent(false), end: audible},
		{name: "mute", begin: silent(true), end: audible},
	} {
		b.Run(fmt.Sprintf("rate=%d/%s", *failoverRate, d.name), d.run)
	}
}

// BenchmarkStale measures how much of what shoppers are shown is stale, and
// says so, while each goes from a device near us-east to one near eu-west and
// back every ten calls. It fails as BenchmarkClientFailover does.
func BenchmarkStale(b *testing.B) {
	homes := regions[:2]
	var heal func()
	var leader string
	for _, d := range []drill{
		{name: "nothing", begin: func(*running, *buyers) {}, end: func(*running, *buyers) {}},
		{name: "link-cut", begin: func(r *running, b *buyers) { heal = r.cut(b.t, links[0]) }, end: func(*running, *buyers) { heal() }},
		{name: "slow-link", begin: func(r *running, b *buyers) {
			r.link(b.t, adminv1.LinkRequest_ACTION_DELAY, "us-east", "eu-west", 80*time.Millisecond)
		}, end: func(r *running, b *buyers) {
			r.link(b.t, adminv1.LinkRequest_ACTION_HEAL, "us-east", "eu-west", 0)
		}},
		{name: "leader-killed", begin: func(r *running, b *buyers) {
			leader = leaderOf(b.t, r, "us-east")
			r.switchNode(b.t, adminv1.NodeRequest_ACTION_KILL, leader)
		}, end: func(r *running, b *buyers) {
			r.switchNode(b.t, adminv1.NodeRequest_ACTION_START, leader)
		}},
		{name: "region-killed", begin: kill("us-east"), end: restart("us-east")},
	} {
		d.homes = homes
		b.Run(fmt.Sprintf("rate=%d/%s", *failoverRate, d.name), d.run)
	}
}

// leaderOf is the node that leads a region's first shard.
func leaderOf(t testing.TB, r *running, region string) (node string) {
	t.Helper()
	eventually(t, 10*time.Second, region+" has a leader", func() bool {
		if shards := status(t, r, region).Shards; len(shards) > 0 {
			node = shards[0].Leader
		}
		return node != ""
	})
	return node
}
