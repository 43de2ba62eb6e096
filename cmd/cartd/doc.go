// Command cartd is the cart server.
//
//	cartd dev      three regions of three nodes each in one process
//	cartd node     one node of one region: shards on disk, links, gossip, API
//	cartd gateway  the API of a region without a disk
//	cartd health   exit 0 when a process's region serves writes
//
// # Where things are
//
//	config.go    flags, environment and YAML file, one struct
//	dev.go       cartd dev        server.go  cartd node and cartd gateway
//	api.go       what is served beside a region's API
//	admin.go     the admin service, over what dev and node can do
//	faults.go    cuts and delays of links, for drills
//	metrics.go   events as Prometheus metrics
//	health.go    cartd health
//	forward.go   a gateway's calls to other regions
//	sharing.go   the key and the address of links that share carts
//
// How a node's parts are put together is in rpc/member, which simulations
// run too.
//
// # Decisions
//
// cartd dev runs every part that production runs: nine databases, real
// Raft logs on disk, links over loopback sockets, gossip over HTTP/2. Only
// the processes are one, so a node is killed by cutting its links and
// dropping its members without a word, not by a signal; the kill test under
// simulations uses processes.
//
// Flags, environment and file are read by kong: one struct, one place for
// names, defaults and help. The YAML loader is ours, as kong's own ignores
// keys that it does not know, and a misspelt key must not start a server with a
// default in its place. kong also lets a file win over the environment; ours
// steps back, since a file is shared and the environment is one process's.
//
// cartd dev opens the data of all nine nodes before it runs one: a directory
// that is not right ends the start while the others are as they were.
//
// A gateway passes calls on by the code of rpc/client, when --addresses names
// other regions. Nodes do not: what reaches one came by a balancer that can ask
// /readyz, and a node that lost its majority has enough to do. The front of
// cartd dev does not either: it is in one process with all regions, so it asks
// them without a probe, and has no home to prefer.
//
// cartd health asks /readyz, as images without a shell have nothing that
// could. It tells whether the region serves, not whether the process lives;
// the process ends by itself when it must not go on.
package main
