// Package membership keeps the regions agreed on who of them is a member: which
// are waited for, which are refused, and which are on their way in or out.
//
// A document names all regions with their states; its number is the epoch. The
// members of an epoch decide the next one by majority: package proto/membership has
// the document, its rules and the acceptor, this one the changes (change.go), the
// deciding (decide.go), and the Keeper, which each region runs once: it hears of
// newer documents, puts them into the logs of the region's shards, and does what
// the region's own state asks of it.
//
//	          add                    drain                remove
//	(new) ──────────▶ fenced ──▶ joining ──▶ active ──▶ draining ──▶ drained ──▶ removed
//	                    ▲  by itself   by itself  │  ▲      │ by itself  │           │
//	                    └──────────── fence ──────┴──┼──────┴────────────┘           │
//	                    ▲                            └──── add ── (from draining, drained)
//	                    └──────────────────────── add ───────────────────────────────┘
//
// # A dead region
//
// Fencing it means that the others go on: they wait for none of its acks, trim
// their logs without it, and take nothing from it any more, each shard from the
// place in its log at which it took the document in. What one of them has of it,
// the others get by the comparison of digests that goes on all the time.
//
// # A fenced region that returns
//
// It hears of the document, and from then on its shards refuse edits and reads. It
// has itself made a joining member, under a higher incarnation; begins its shards
// again without carts, its own rows kept aside; is sent all carts by the others;
// and when each of them has given it all that it had, writes anew those of its rows
// that nobody saw (crdt.Cart.Reissue), and takes edits again. A region that lost
// its disks has nothing to keep, and a new one neither: they come in the same way.
//
//	event                           what happens
//	no majority of members          nothing is decided; edits go on in every region
//	proposer dies half way          the next one finds what was accepted, and completes it
//	region hears late               it learns from any other that answers; until then it
//	                                takes edits that the others refuse, and writes them anew
//	dies while joining              goes on where it was; the log says how far it came
//	fenced again while joining      the rows that were kept stay kept
//	two regions fence each other    by force: the document of the higher epoch counts, of
//	                                equal ones that of the lower id; the other region
//	                                comes back as a fenced one does
//
// # Sources
//
// Lamport 2001, Paxos Made Simple; Lamport, Malkhi, Zhou 2009, Vertical Paxos
// (reconfiguration by the members before); Riak's and Cassandra's operators, on
// what a returning node brings back (PITFALLS of this project).
//
// # Decisions
//
// One decree an epoch. The document of an epoch names those who decide the next,
// so members may change by more than one at a time without two majorities that do
// not meet, and an acceptor holds no more than one ballot and one value. Cost: who
// is behind must be told of each document's successor before it votes; they are
// told within a second. Rejected: a log of changes, which needs a leader among
// regions; one register for all epochs, which one returning region with an old value
// could confuse.
//
// No record of the last row. Fencing could record for each stream the last row that
// any member holds, and the region's later rows would be those that nobody saw. But
// whole carts run ahead of rows, so a row above the record may well be known. The
// contexts of the carts say it exactly, dot by dot, and the returning region has them
// all before it writes anything anew. Cost: the contexts' entries of a fenced
// incarnation stay until its region has come back or is removed.
//
// What is lost is written anew as it was meant. Reissue keeps a write as concurrent
// with the others' as it was: an edit made in the region that was cut off does not
// overwrite what others did meanwhile. Rejected: applying it to the cart as it is
// now, as if the shopper had just clicked.
//
// All carts are sent again. The returning region could compare digests with the
// others, but its old carts must not be joined with theirs: contexts that were
// collected since would bring back what was removed. Cost: the region's carts, once.
//
// A fenced region comes back by itself. Whoever fenced it did so because it did not
// answer; when it does again there is nothing to decide. One that shall not is
// removed.
//
// Force is for two. Of two regions one is no majority, so the one that is left
// can decide nothing; an operator can. If the other is alive after all, and its
// operator does the same, both take edits and neither sees the other's until they
// meet; then one of them comes back as fenced, and writes its edits anew. Nothing
// is lost; what needs a majority of regions (checkout) must not be trusted
// meanwhile. Of three regions two decide.
package membership
