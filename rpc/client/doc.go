// Package client is how devices' back ends speak with a service of several
// regions: it finds the nearest healthy region, goes to another when that one
// fails, and keeps what each shopper has seen.
//
//	c, err := client.New("http://127.0.0.1:8080", client.DefaultConfig())
//	go c.Run(ctx)
//	defer c.Close()
//	s := c.Session(client.User("user-123"))
//	a, err := s.Add(ctx, &cartv1.AddItemRequest{Line: &cartv1.LineRef{SkuId: "SKU-456"}, Quantity: 2})
//
// # The model
//
// Decisions are made by pure parts, which are given the time; a thin shell of
// goroutines feeds them:
//
//	regions.go   where calls go: health, round trips, hysteresis
//	course.go    one call's way through the regions: next region, pause, timeout
//	budget.go    how many retries and hedges there may be
//	latency.go   how long reads take
//	verdict.go   the one table of errors: what may be sent again, and where
//	token.go     causal tokens
//	guide.go     shell: what calls share, of a Client or of a Forwarder
//	probe.go     shell: Run learns the list of regions, and measures them
//	call.go      shell: attempts and hedges of one call
//	watch.go     shell: streams that are opened again
//	session.go   the calls
//	forward.go   a region's own API, and other regions when it does not serve
//
// # Guarantees
//
// A mutation has one op id in all its attempts, in whatever region, so it
// counts once; the caller's own, or one the client draws. It is never hedged.
//
// A call of a session sees what the session's earlier calls saw and wrote,
// or its answer is marked Stale; so read-your-writes, monotonic reads and
// writes-follow-reads hold across regions, or are known not to. The Stale of
// an Answer is more than the message's own: the client compares the answer's
// causal token with what was seen.
//
//	what fails                        what a caller meets
//	a region, connections refused     the next region at once; nothing is taken from the budget
//	a region, in the midst of a call  the next region at once, with the same op id
//	a region, without a word          the next region after AttemptTimeout
//	a shard of a region               the next region; its sessions stay there for DetourFor
//	all regions                       pauses with jitter, then the last error; at most BudgetShare more load
//	the list of regions               what is known of it; before that the given address
//	an edit's outcome is not known    retried; else Error.Unknown and Error.OpID, to try again later
//
// What a region that died had not sent on is not seen elsewhere until it is
// back: edits made meanwhile are Stale, and of concurrent adds to one line the
// larger sum counts. A session whose writes are lost for good, with all their
// region's disks, stays Stale: make a new one.
//
// # Decisions
//
// A session joins the tokens of all answers, so the client reads tokens. To
// keep only the last one would lose what an earlier region alone has: a third
// region's answer without it would not be marked. Their form is in package
// causal; one that the client does not know is sent back as it is. Rejected:
// several Cart-Token headers, which servers refuse.
//
// A token of a form that the client does not know is kept until an answer shows
// that a region has what it names: in the midst of an upgrade an older region
// refuses such tokens, and is asked again with what the client can read; the
// answer is Stale, since nobody can compare. Without that a session could not be
// served by older regions at all.
//
// A Replayed answer of a session that has seen something is Stale. The attempt
// that made the edit may have been answered Stale, and that answer was lost; the
// region that replays it cannot tell. Found under load: a lagging region made
// an add on top of an older sum, the retry was recognised elsewhere, and of the
// two sums the larger counted without a mark.
//
// AttemptTimeout is below a second by as much as the next region takes when
// all calls come to it at once. It was 0.8 s: then the longest gap under 500
// edits/s on two cores was 0.9 to 1.07 s when a region fell silent.
//
// After a Stale answer the session asks regions only for what could be had,
// and finds out by itself whether an answer lacks more. Asking for all of it
// would make each call wait, 0.3 s and longer, for a region that is down.
//
// Retries and hedges take from one token bucket. What no server saw, a
// refused connection, takes nothing: it is no load, and it is what most calls
// meet when a region dies. Rejected: a bound for each call alone, with which
// an outage multiplies the load by it.
//
// A session that was answered elsewhere stays there for DetourFor. One shard
// of three without a leader makes a third of the calls fail, which is no
// reason to leave the region, and far more than the budget. The wait for
// tokens is spared too. Rejected: leaving a region by its share of failures.
//
// OVERLOADED sends one call elsewhere, within the budget, and never moves the
// client: it would bring the whole load to the next region, and overload that.
//
// A region is measured by /readyz: one request gives health and round trip,
// and a region that answers and does not serve is not chosen. Only the time
// from the last byte sent to the first received counts.
//
// There is no vote between calls and probes: failures in a row count, whoever
// met them, and a call's first failure makes Run look at once. A call that fails
// after the region has answered a later one does not count, but asks for a
// probe: where many calls are under way, one moment in which a busy region
// stands still would else make three fail at once, and all calls move, which
// costs most when there is least to spare.
//
// A hedge waits for the p95 of recent reads, remembered in a histogram of
// quarter octaves; reads that were called off count as long as they had
// lasted. Explain is not hedged: it is for people. A stale answer does not
// call the other attempt off.
//
// net/http itself sends a request again when an idle connection turns out to
// be closed, mutations because they have an Idempotency-Key. That is within one
// attempt, and as safe. A proxy's Retry-After is not seen: Connect drops the
// headers of answers that are not its own.
//
// Timeouts of attempts double. A fixed one would make every attempt fail
// where all regions are slow.
//
// Watches take nothing from the budget: each is one stream, however often it
// is opened, and the pauses between openings grow to BackoffMax.
//
// A Forwarder chooses by the same guide as a Client, and goes by the same table
// of errors, so a gateway and a back end leave a region for the same reasons. It
// has what a Client has not: a home, which is the nearest region by decree, since
// the ways of a gateway's callers through another region are longer than its
// own. It needs no answer's body: cartd names the code in Cart-Error, whatever
// the protocol. Rejected: reading errors out of four protocols; reverse
// proxies before cartd, which cannot tell what may be sent twice; drawing an
// Idempotency-Key for calls without one, since a caller that repeats such a call
// would still count twice, and should learn that the outcome is unknown.
//
// /readyz of a gateway says what its own region does, not what the gateway
// can have others do: else two gateways would take each other for well. For the
// same reason a call is passed on once, and Cart-Forwarded-By is believed from
// anybody: the worst that it does is to keep a call at home. A Forwarder does
// not know callers: a region that it passes calls on to authenticates them, with
// the same keys, and has limits of its own.
//
// A watch is passed on as one stream, and ends, without being complete, when
// calls go elsewhere: watchers come again, and with them to the right region.
//
// The package imports no other of ours but proto and crdt: what is linked into
// other people's back ends brings no storage engine with it. Cost: the API's
// codes are written a second time, in verdict.go; a test compares them.
package client
