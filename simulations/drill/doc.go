// Package drill makes failover drills: it breaks something of a cluster on
// purpose, while shoppers buy, heals it, and judges whether what is promised was
// kept. An operator runs them as `cartctl drill NAME`; deploy/drills.md says when.
//
//	drill.go, extras.go   the drills: what each breaks, expects and risks
//	run.go                one drill from begin to report, also when it is aborted
//	cluster.go            a cluster that somebody else started, through its admin service
//	local.go, proxy.go    one of the drill's own: processes, and TCP proxies between regions
//	load.go               the shoppers: sessions of rpc/client, with op ids and retries
//	oracle.go             what one shopper's cart may hold (pure)
//	watch.go              each region by itself: edits, lag, how it says it is
//	record.go             what was seen, and figures of it (pure)
//	report.go, timeline.go   Markdown, HTML, the picture (pure)
//
// # What is judged
//
//   - Every acknowledged edit is there, or was superseded by a later one of its
//     session; nothing counts twice, nothing that was removed is back.
//   - Every answer that is not marked stale has what its session has seen.
//   - All regions hold the same carts, by their digests.
//   - No shopper waits longer than the drill's bound, and all is as before within
//     another: every node, every leader, every link on its direct way, no lag.
//   - No process ended by itself.
//
// # Decisions
//
// Each shopper has a cart of its own and makes one call after the other, so the
// oracle predicts quantities instead of bounding sums, and sees a decrease that
// comes back, which sums hide. Where it cannot know, it allows for each case: an
// attempt that nobody answered may have been made in another region, and then
// counts beside what came later. simulations/check judges whole histories of many
// writers and needs their order; here the cart alone is enough.
//
// An edit is tried again under its op id for 20 s before it is given up: few
// lines are in doubt, and those are counted.
//
// A drill of its own cluster puts a proxy on every connection between regions. The
// processes know nothing of it, so silence, one direction and a narrow link are
// what a network does, not what cartd makes of a request. Silence holds bytes
// back and lets them pass when it ends, as TCP's retransmissions do. The public
// addresses have no proxies: shoppers, and gateways that pass calls on, reach regions
// over other ways than regions reach each other. Rejected: network namespaces, which
// need root, and packet filters, which are left behind when a drill is killed.
//
// A region's own availability is measured by edits, one cart in each shard, that no
// gateway passes on: /readyz says what a region thinks of itself. The RTO for
// shoppers is the longest that any waited for an answer, retries included, from the
// first call in vain.
//
// A fault ends when its end begins: the start of processes is part of the recovery.
//
// The bounds are for two busy cores. They are there to find what hangs; what is
// usual is in the drill's text and in the report, for people to compare.
//
// What only signals and proxies can do is refused on an addressed cluster before
// anything is touched, and so is a cluster that is not well: a drill there would
// prove nothing, and its healing might end a fault that it has not made.
//
// The processes are killed by the system when cartctl is, where it can (Linux). A
// full-disk drill that is killed in its midst leaves a mount in the temporary directory.
package drill
