package store

// Steps is told of each durable step by its name, before it or after it, as the
// name says; nil: nobody is. A simulation ends the node there. It may be called
// from any goroutine, with locks held, and must not wait for the node.
type Steps func(step string)

// At tells of a step.
func (s Steps) At(step string) {
	if s != nil {
		s(step)
	}
}

// The steps of a database. Those of the log and of the node's own files are
// named in region/shard and region.
const (
	StepCommit    = "database: before a commit"
	StepCommitted = "database: after a commit"
	StepSpilled   = "database: rows spilled, before their commit"
	StepCleared   = "restore: new generation cleared"
	StepFilled    = "restore: new generation filled"
	StepPointed   = "restore: new generation current"
	StepReborn    = "reborn: new generation filled"
	StepRebornAs  = "reborn: new generation current"
	StepSweeping  = "sweep: before old generations go"
	StepFlushed   = "database: memtable synced"
)
