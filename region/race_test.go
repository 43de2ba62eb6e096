//go:build race

package region

// slowdown stretches Raft's times under the race detector.
const slowdown = 2
