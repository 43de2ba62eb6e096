//go:build !race

package crdt_test

const exhaustiveLess = 0
