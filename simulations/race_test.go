//go:build race

package simulations

// The race detector makes a run ten times as slow.
const oneRuns, fullRuns, crashRuns = 6, 2, 1

// scenarioEvery says of how many scenarios one is played.
const scenarioEvery = 6
