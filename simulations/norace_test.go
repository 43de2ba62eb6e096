//go:build !race

package simulations

// What two cores do within 90 seconds.
const oneRuns, fullRuns, crashRuns = 100, 10, 1

// scenarioEvery says of how many scenarios one is played.
const scenarioEvery = 1
