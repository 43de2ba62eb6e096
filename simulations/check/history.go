package check

import (
	"fmt"
	"sync"
	"time"
)

// Kind is what a call asks for.
type Kind uint8

// The calls of a cart.
const (
	Add Kind = iota
	Set
	Remove
	Clear
	Get
	StrongGet
	Save
	Move
	Describe
	Undo
	Merge
)

func (k Kind) String() string {
	return [...]string{"add", "set", "remove", "clear", "get", "strong get", "save", "move", "describe", "undo", "merge"}[k]
}

// Item is what a cart has of a line; none has N 0.
type Item struct {
	N     uint64
	Saved bool   // it is aside
	Note  string // of a describe, or what came with an add or a set
}

func (i Item) String() string {
	s := fmt.Sprint(i.N)
	if i.Saved {
		s += " aside"
	}
	if i.Note != "" {
		s += " " + i.Note
	}
	return s
}

// Outcome is what became of a call.
type Outcome uint8

// Outcomes. A call that failed and was surely not applied is Refused.
const (
	Acked Outcome = iota
	Refused
	Unknown
)

func (o Outcome) String() string { return [...]string{"acked", "refused", "unknown"}[o] }

// Op is one call of a session, with all its attempts.
type Op struct {
	Session  int
	Cart     string
	Kind     Kind
	Line     string // none of Clear, Undo, Merge and reads
	N        uint64 // of Add and Set
	Note     string // of Describe; of an Add or a Set that writes one
	Guest    string // whose cart a Merge brings
	Region   string // that answered
	Begin    time.Duration
	End      time.Duration
	Outcome  Outcome
	Stale    bool            // what the session had seen may not have been seen by the call
	Replayed bool            // it was made before, perhaps in another region
	Quantity uint64          // of the line after an Add, a Set or a Describe
	Count    uint64          // of the cart after a Remove or a Clear
	Lines    map[string]Item // of a Get or a StrongGet; after a Save, a Move or an Undo
}

func (o Op) String() string {
	s := fmt.Sprintf("%.3f-%.3f s session %d %s", o.Begin.Seconds(), o.End.Seconds(), o.Session, o.Kind)
	switch o.Kind {
	case Add, Set:
		s += fmt.Sprintf(" %s %d %s: %d", o.Line, o.N, o.Note, o.Quantity)
	case Describe:
		s += fmt.Sprintf(" %s %s: %d", o.Line, o.Note, o.Quantity)
	case Save, Move:
		s += fmt.Sprintf(" %s: %v", o.Line, o.Lines)
	case Undo:
		s += fmt.Sprintf(": %v", o.Lines)
	case Merge:
		s += " " + o.Guest
	case Remove:
		s += fmt.Sprintf(" %s: %d", o.Line, o.Count)
	case Clear:
		s += fmt.Sprintf(": %d", o.Count)
	case Get, StrongGet:
		s += fmt.Sprintf(": %v", o.Lines)
	}
	s += fmt.Sprintf(" (%s in %s)", o.Outcome, o.Region)
	if o.Stale {
		s += " stale"
	}
	if o.Replayed {
		s += " replayed"
	}
	return s
}

// reads reports whether the call changes nothing.
func (o Op) reads() bool { return o.Kind == Get || o.Kind == StrongGet }

// takes reports whether the call may take the line out.
func (o Op) takes(line string) bool {
	return o.Kind == Clear || (o.Kind == Remove || o.Kind == Set && o.N == 0) && o.Line == line
}

// puts reports whether the call puts something into the line.
func (o Op) puts(line string) bool {
	return (o.Kind == Add || o.Kind == Set) && o.N > 0 && o.Line == line
}

// notes reports whether the call writes the line's note.
func (o Op) notes(line string) bool {
	return o.Line == line && (o.Kind == Describe || o.Note != "" && o.puts(line))
}

// places reports whether the call may put the line aside, or into the cart.
func (o Op) places(line string) bool {
	return o.Kind == Undo || o.Line == line && (o.Kind == Save || o.Kind == Move || o.Kind == Add)
}

// touches reports whether the call may write the line so that something of it stays.
func (o Op) touches(line string) bool {
	return o.puts(line) || o.notes(line) || o.places(line)
}

// sees reports whether the call surely knew what another had done: of its own
// session, or of the region that made both.
func (o Op) sees(before Op) bool {
	if o.Outcome != Acked || o.Replayed || before.Outcome != Acked || before.End > o.Begin {
		return false
	}
	return before.Session == o.Session && !o.Stale || before.Region == o.Region && !before.Replayed
}

// History is what all sessions did. Add may be called from any goroutine.
type History struct {
	mu  sync.Mutex
	ops []Op
}

// Add takes a call in that has ended.
func (h *History) Add(o Op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
}

// Ops returns all calls, in the order they ended.
func (h *History) Ops() []Op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Op(nil), h.ops...)
}

// Violation is a promise that was broken.
type Violation struct {
	Check string // which check found it
	Text  string
}

func (v Violation) String() string { return v.Check + ": " + v.Text }

func violation(check, format string, args ...any) Violation {
	return Violation{check, fmt.Sprintf(format, args...)}
}

// byCart sorts calls by cart.
func byCart(ops []Op) map[string][]Op {
	out := make(map[string][]Op)
	for _, o := range ops {
		out[o.Cart] = append(out[o.Cart], o)
	}
	return out
}
