package replay

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Window is a part of the edits, in percent: edit n of total, from 0, is in it
// when From ≤ 100·n/total < To.
type Window struct{ From, To float64 }

// parseWindow reads "33%-66%".
func parseWindow(s string) (Window, error) {
	from, to, ok := strings.Cut(s, "-")
	w := Window{}
	var err error
	if !ok {
		return w, fmt.Errorf("window %q: write FROM%%-TO%%, for example 33%%-66%%", s)
	}
	if w.From, err = percent(from); err != nil {
		return Window{}, fmt.Errorf("window %q: %w", s, err)
	}
	if w.To, err = percent(to); err != nil {
		return Window{}, fmt.Errorf("window %q: %w", s, err)
	}
	if w.From >= w.To {
		return Window{}, fmt.Errorf("window %q: it must end after it begins", s)
	}
	return w, nil
}

func percent(s string) (float64, error) {
	digits, ok := strings.CutSuffix(strings.TrimSpace(s), "%")
	if !ok {
		return 0, fmt.Errorf("%q has no %% sign", s)
	}
	p, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(p >= 0 && p <= 100) { // also refuses NaN
		return 0, fmt.Errorf("%q is not between 0%% and 100%%", s)
	}
	return p, nil
}

// String is the form that is parsed.
func (w Window) String() string {
	return fmt.Sprintf("%s%%-%s%%", strconv.FormatFloat(w.From, 'f', -1, 64), strconv.FormatFloat(w.To, 'f', -1, 64))
}

func (w Window) overlaps(v Window) bool { return w.From < v.To && v.From < w.To }

// edge is the first edit at or after p percent of total.
func edge(p float64, total int) int { return int(math.Ceil(p * float64(total) / 100)) }

// Cut is a link that is cut for a part of the edits. A sorts before B.
type Cut struct {
	A, B string
	Window
}

// UnmarshalText reads "A,B:33%-66%".
func (c *Cut) UnmarshalText(text []byte) error {
	link, window, ok := strings.Cut(string(text), ":")
	a, b, two := strings.Cut(link, ",")
	a, b = strings.TrimSpace(a), strings.TrimSpace(b)
	if !ok || !two || a == "" || b == "" || strings.Contains(b, ",") {
		return fmt.Errorf("cut %q: write A,B:FROM%%-TO%%, for example us-east,eu-west:33%%-66%%", text)
	}
	if a == b {
		return fmt.Errorf("cut %q: a link has two regions", text)
	}
	w, err := parseWindow(window)
	if err != nil {
		return fmt.Errorf("cut %q: %w", text, err)
	}
	*c = Cut{A: min(a, b), B: max(a, b), Window: w}
	return nil
}

// String is the form that is parsed.
func (c Cut) String() string { return c.A + "," + c.B + ":" + c.Window.String() }

// Kill is a node that is down for a part of the edits.
type Kill struct {
	Node string // REGION/N
	Window
}

// UnmarshalText reads "REGION/N:40%-60%".
func (k *Kill) UnmarshalText(text []byte) error {
	node, window, ok := strings.Cut(string(text), ":")
	node = strings.TrimSpace(node)
	region, n, two := strings.Cut(node, "/")
	if _, err := strconv.ParseUint(n, 10, 32); !ok || !two || region == "" || err != nil {
		return fmt.Errorf("kill %q: write REGION/N:FROM%%-TO%%, for example us-east/2:40%%-60%%", text)
	}
	w, err := parseWindow(window)
	if err != nil {
		return fmt.Errorf("kill %q: %w", text, err)
	}
	*k = Kill{Node: node, Window: w}
	return nil
}

// String is the form that is parsed.
func (k Kill) String() string { return k.Node + ":" + k.Window.String() }

// Region is the region of the node.
func (k Kill) Region() string { return k.Node[:strings.LastIndexByte(k.Node, '/')] }

// CheckFaults reports a fault that names an unknown region or that begins
// while the same fault is in force.
func CheckFaults(cuts []Cut, kills []Kill, regions []string) error {
	known := func(fault fmt.Stringer, region string) error {
		if slices.Contains(regions, region) {
			return nil
		}
		return fmt.Errorf("%v: region %q is unknown: there are %s", fault, region, strings.Join(regions, ", "))
	}
	for i, c := range cuts {
		if err := cmp.Or(known(c, c.A), known(c, c.B)); err != nil {
			return err
		}
		for _, d := range cuts[:i] {
			if c.A == d.A && c.B == d.B && c.overlaps(d.Window) {
				return fmt.Errorf("cuts %v and %v overlap", d, c)
			}
		}
	}
	for i, k := range kills {
		if err := known(k, k.Region()); err != nil {
			return err
		}
		for _, d := range kills[:i] {
			if k.Node == d.Node && k.overlaps(d.Window) {
				return fmt.Errorf("kills %v and %v overlap", d, k)
			}
		}
	}
	return nil
}

// event is a fault that begins or ends.
type event struct {
	at    int  // before this edit, from 0
	begin bool // else it ends
	cut   Cut
	kill  Kill // when cut is empty
}

func (e event) String() string {
	what := map[bool]string{true: "kill ", false: "start "}[e.begin] + e.kill.Node
	if e.cut.A != "" {
		what = map[bool]string{true: "cut ", false: "heal "}[e.begin] + e.cut.A + " " + e.cut.B
	}
	return what
}

// timeline orders the faults of total edits: by edit, and what ends before
// what begins. A window without an edit in it has no events. One that ends
// after the last edit is ended by the run.
func timeline(cuts []Cut, kills []Kill, total int) []event {
	var out []event
	add := func(w Window, e event) {
		from, to := edge(w.From, total), edge(w.To, total)
		if from >= to {
			return
		}
		e.at, e.begin = from, true
		out = append(out, e)
		e.at, e.begin = to, false
		out = append(out, e)
	}
	for _, c := range cuts {
		add(c.Window, event{cut: c})
	}
	for _, k := range kills {
		add(k.Window, event{kill: k})
	}
	slices.SortStableFunc(out, func(a, b event) int {
		if a.at != b.at {
			return cmp.Compare(a.at, b.at)
		}
		switch {
		case a.begin == b.begin:
			return 0
		case b.begin:
			return -1
		default:
			return 1
		}
	})
	return out
}
