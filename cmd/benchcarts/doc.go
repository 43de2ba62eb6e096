// Command benchcarts fills one node with very many small carts and says what they
// cost: memory, disk, the sweep of what is due, and the start of the node.
//
// The node is a region of its own in this process: one voter, one shard, the
// settings of cartd node, its log synced to disk. The carts, of one or two lines, come
// through the shard's log as rows of a stream; one in a hundred is then edited
// here. One in --guests of them is a guest's, whose life is an hour; the clock is then set forward, so that
// those are due, and the same goroutine sweeps as in cartd.
//
//	go run ./cmd/benchcarts --carts 1000000 --dir /tmp/carts
//
// It prints a line for each step, with the time it took and what the process and its
// directory have after it. --index=false gives nothing a life, so that no cart stands
// in the index: what filling costs then is the price without it.
package main
