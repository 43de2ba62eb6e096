//go:build !race

package main

import "time"

// distance is how far a region is from the next: above what a busy machine adds to
// a round trip.
const distance = 20 * time.Millisecond
