// Package member puts a region together from its parts, as a process runs it:
// the nodes' shards and links (package region), the gossip with other regions
// (package replication) and the calls between regions (package rpc). cartd and the
// simulations run what is wired here.
//
// # Words
//
//	Place   which region a process belongs to, which nodes that has and how they
//	        are reached: all that is known before anything is connected
//	Part    a process's part in the region: the ways to the other regions, the
//	        Roster, and the doors that are made of them
//	Route   the way to another region, direct or through a third one (rpc.Route)
//	Roster  what the process knows of the membership of regions: with whom rows
//	        are exchanged, from whom carts are taken
//	Member  one node with all its parts: data, links, gossip
//
// # Order
//
//	part, err := member.Connect(place, peers)       the ways to other regions, the roster
//	m, err := part.Open(name, dir, cfg, fatal)      a node's data; nothing runs yet
//	part.Attach(m.Node.Router)                      through which the region is reached
//	go part.Run(ctx)                                follows the membership
//	m.Start(ln)                                     the node, and its links on ln
//	s, err := part.PeerServer(identity)             for other regions: s.Serve(peerLn)
//	h, err := place.Handler(surface)                for shoppers: rpc.NewServer(…, h, …)
//
// A process of several nodes of one region, as cartd dev is, has one Part for
// them: it attaches the router of a [Place.Gateway], opens all nodes, then starts
// them. A gateway that runs by itself has a Place alone. To stop: close the servers,
// then Stop the nodes, then end the context of Run.
//
// gossip.go runs with each leadership: it sends the shard's rows, repairs, and
// frees what carts leave behind; rights.go tells the shard whom it hears from, and who
// has its rows. adapters.go is a shard as a delta log and a region
// as a sink, for replication. form.go asks the other regions before a region without
// data is formed.
//
// # Decisions
//
// This is not in cmd, where wiring is otherwise: simulations must run the very
// wiring that production runs, and may not import cmd. What is left there is
// what a process has and a library has not: flags, files of certificates, metrics,
// faults for drills, the admin service. Cost: rpc, which was the surface alone, has
// one package that knows all the rest; nothing below it does.
//
// Nothing here opens a socket. Links are dialed by Place.Dial, other regions by
// Peers.Dial, and servers are given back for the caller to serve on a listener of
// its own: the same code runs over loopback, over TLS, and over a network in
// memory within a synctest bubble.
//
// Events are functions, as everywhere below cmd. Opened and Closed come in
// pairs, so that whoever shows how shards stand with other regions can ask for
// it when asked, and forgets a node that is gone.
//
// Config.Tune has the last word on a region.Config: a simulation changes clocks
// and disks, a test sizes. Rejected: a copy of each of its settings here.
//
// AskFirst is a setting, since the regions of one process start together: each
// would wait for the others to be formed. cartd dev looks at all their
// directories instead, and asks from then on.
package member
