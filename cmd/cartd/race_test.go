//go:build race

package main

import "time"

// distance is how far a region is from the next: above what the race detector
// adds to a round trip.
const distance = 100 * time.Millisecond
