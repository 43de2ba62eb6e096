//go:build race

package crdt_test

// The race detector makes the exhaustive check about ten times slower, and
// carts share nothing between its workers: one step less is enough there.
const exhaustiveLess = 1
