//go:build services

package main

import "testing"

// The Redis cart answers adds and reads, with a redis-server of its own.
func TestRedisCart(t *testing.T) {
	if all := measured(t, "redis"); len(all) != 2 {
		t.Fatalf("measurements %+v", all)
	}
}
