package simulations

import (
	"slices"

	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/region/shard"
	"github.com/samecart/samecart/region/store"
	"github.com/samecart/samecart/simulations/disk"
)

// crashSteps are the durable steps at which a node is made to crash.
var crashSteps = slices.Concat(disk.Steps, []string{
	shard.StepSegments, shard.StepStable, shard.StepSnapshot, shard.StepSnapshotAt,
	store.StepCommit, store.StepCommitted, store.StepFlushed,
	store.StepCleared, store.StepFilled, store.StepPointed, store.StepSweeping,
	region.StepWritten, region.StepRenamed,
})
