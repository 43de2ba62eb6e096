// Command benchpeers measures Samecart beside what a shop would otherwise
// have: `make bench-peers`. All run on this machine, in the same minutes, under
// the same load program.
//
//	empty      a Connect handler that answers at once with an empty message
//	redis      a cart as a Redis hash behind the same handler: HSET, EXPIRE and
//	           HGETALL in one pipeline; append-only file, synced every second
//	etcd       three nodes; a put of the bytes that Samecart's log gets for an add
//	samecart   one region of three `cartd node` processes, one shard, on disk
//
// An add is one to a random line of a random cart, a get reads a random cart;
// in etcd there is no cart, so it has puts only. Each target runs alone, while
// the others' processes are idle, and all of them in turn in every round, so a
// machine whose speed drifts does not favour one. The table has the median of
// the rounds, and the ratio to the empty handler of the same round.
//
// redis-server and etcd are looked for on the PATH; deploy/services/install
// brings them where apt and root allow it.
//
// # Decisions
//
// The load is this process with connect-go's client, one HTTP/1.1 connection
// a client. Answers are read whole and not decoded: what a device does with a
// cart of ten lines takes as long as an empty call, on the same two cores. A
// leaner client would make ratios of costs look larger; this is the one that
// users have. For etcd,
// which speaks gRPC, it is the same client with gRPC's protocol, one HTTP/2
// connection a client. Rejected: etcd's own client, which shares a connection
// and would be another load program.
//
// Clients of Samecart and of etcd call the leader. Behind a load balancer two of
// three calls go through another node first; --spread shows what that costs
// both.
//
// Redis stores a line as a field, name and quantity, which is less than a cart
// needs: no price, no time, no op id, no history, no second copy of the data.
package main
