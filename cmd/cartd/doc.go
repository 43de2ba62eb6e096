// Command cartd is the cart server.
//
//	cartd dev      three regions of three nodes each in one process
//	cartd node     one node of one region: shards on disk, links, gossip, API
//	cartd gateway  the API of a region without a disk
//
// # Where things are
//
//	config.go    flags, environment and YAML file, one struct
//	member.go    a node's parts put together: links, shards, gossip
//	adapters.go  a shard as a delta log, a region as a sink, for replication
//	api.go       a region's public handler
//	dev.go       cartd dev        server.go  cartd node and cartd gateway
//	admin.go     the admin service, over what dev and node can do
//	faults.go    cuts and delays of links, for drills
//	metrics.go   events as Prometheus metrics
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
// default in its place.
package main
