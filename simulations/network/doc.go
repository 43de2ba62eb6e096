// Package network is a network for simulations: net.Conn and net.Listener without
// sockets, on whatever clock time.Now shows, so that it works inside a
// testing/synctest bubble.
//
// A Host is one process's place in it: it listens and dials by name, and is cut
// from everything when it is killed. What goes from one host to another is as late,
// as slow and as unreliable as the Way between them says, in each direction by
// itself.
//
// # Decisions
//
// Connections are streams, as TCP's are: a lost packet is sent again after a
// while and holds up what follows, so loss shows as lateness; bytes are not
// doubled or reordered within a connection. What is doubled or overtaken in real
// networks, and what a server sees, are calls: over several connections, by
// retries, and by replies alone being lost, which a cut of one direction brings
// about here.
//
// A cut holds what is sent, and hands it over some time after it has healed,
// unless the connection was given up before: nobody is told of a cut. A killed
// process is told of (its machine resets connections), a machine without power is
// not.
//
// Every byte takes at least a microsecond, or retries without a pause would stop
// virtual time.
package network
