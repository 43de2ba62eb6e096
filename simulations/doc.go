// Package simulations runs the service, all of it, under faults in virtual time.
package simulations
