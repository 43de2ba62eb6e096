package simulations

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// The table of totals stands between these lines.
const (
	tableBegin = "<!-- totals: written by make nightly -->"
	tableEnd   = "<!-- end of totals -->"
)

// writeTable brings the table in a file up to date with the totals so far.
func writeTable(file string) error {
	var rows []kindTotals
	for _, name := range []string{"one", "full", "crash"} {
		b, err := os.ReadFile(totalsFile(name))
		if err != nil {
			return err
		}
		kept := keptTotals{Totals: newTotals()}
		if err := json.Unmarshal(b, &kept); err != nil {
			return fmt.Errorf("%s: %w", totalsFile(name), err)
		}
		rows = append(rows, kindTotals{name, kept.Totals})
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(b), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", file, tableBegin, tableEnd)
	}
	return os.WriteFile(file, []byte(before+tableBegin+"\n"+table(rows)+tableEnd+after), 0o644) //nolint:gosec // a file of the tree
}

type kindTotals struct {
	name string
	*Totals
}

func table(all []kindTotals) string {
	var b strings.Builder
	row := func(name string, of func(*Totals) string) {
		fmt.Fprintf(&b, "| %s |", name)
		for _, t := range all {
			fmt.Fprintf(&b, " %s |", of(t.Totals))
		}
		b.WriteByte('\n')
	}
	b.WriteString("| |")
	for _, t := range all {
		fmt.Fprintf(&b, " %s |", map[string]string{"one": "one group", "full": "full size", "crash": "crash points"}[t.name])
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(all)) + "\n")
	row("runs", func(t *Totals) string { return fmt.Sprint(t.Runs) })
	row("of these with overlapping faults", func(t *Totals) string { return fmt.Sprint(t.Overlap) })
	row("virtual hours", func(t *Totals) string { return fmt.Sprintf("%.1f", t.Virtual.Hours()) })
	row("virtual hours a minute, side by side", func(t *Totals) string {
		return fmt.Sprintf("%.1f", t.Virtual.Hours()/max(t.Real.Minutes(), 1e-9))
	})
	row("**violations**", func(t *Totals) string { return fmt.Sprintf("**%d**", t.Found) })
	for _, m := range []struct {
		name string
		of   func(*Totals) map[string]uint64
	}{
		{"fault", func(t *Totals) map[string]uint64 { return t.Faults }},
		{"crash at", func(t *Totals) map[string]uint64 { return t.Crashes }},
		{"checked", func(t *Totals) map[string]uint64 { return t.Checks }},
	} {
		keys := make(map[string]bool)
		for _, t := range all {
			for k := range m.of(t.Totals) {
				keys[k] = true
			}
		}
		row("*"+m.name+"*, all", func(t *Totals) string {
			var sum uint64
			for _, n := range m.of(t) {
				sum += n
			}
			return fmt.Sprint(sum)
		})
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			row(m.name+": "+k, func(t *Totals) string { return fmt.Sprint(m.of(t)[k]) })
		}
	}
	return b.String()
}

// What several slices counted adds up, and ends in the table.
func TestTotals(t *testing.T) {
	a, b := newTotals(), newTotals()
	a.Runs, b.Runs = 1, 2
	a.fault(Crash)
	b.fault(Crash)
	b.fault(Mute)
	a.crashedAt("here")
	b.evaluated("dots", 3)
	a.Join(b)
	text, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	again := newTotals()
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	got := table([]kindTotals{{"one", again}})
	for _, want := range []string{"| runs | 3 |", "| fault: crash | 2 |", "| fault: mute | 1 |", "| crash at: here | 1 |", "| checked: dots | 3 |", "| *fault*, all | 3 |"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}
