package drill

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Report is what a drill showed.
type Report struct {
	Drill   Drill
	Begun   time.Time
	Options Options
	Own     bool // the cluster was the drill's
	Regions []string
	Aborted bool

	Calls, Failed   int // of shoppers
	Retried, Stale  int
	Acked           int // edits
	Lost            int // lines in which an acknowledged edit is missing: the RPO
	Doubled         int // lines in which one counts twice, or came back
	Unsure          int // lines with an edit of which nobody said whether it was made
	Carts, Diverged int

	// Unavailable is the longest time that any shopper had no answer: the RTO.
	Unavailable time.Duration
	// Outages are, by region, the times in which it made no edits by itself.
	Outages     map[string][]outage
	RecoveredIn time.Duration // from the end of the last fault until all was as before
	EqualIn     time.Duration // from the end of the load until all regions were equal
	P50, P99    time.Duration // of answered calls
	LagMost     map[string]time.Duration

	Violations []string
	violated   int // those that are not listed included

	record

	until time.Duration // end of the picture
}

// finish computes what is computed, and adds what the drill's bounds say.
func (r *Report) finish(from *run) {
	r.figures()
	if most := r.Drill.ShoppersWithin; r.Unavailable > most {
		from.violated("a shopper had no answer for %v, more than %v", r.Unavailable.Round(time.Millisecond), most)
	}
	s := from.shoppers
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Violations = slices.Concat(from.wrong, s.wrong)
	r.violated = len(from.wrong) + s.count
	if more := s.count - len(s.wrong); more > 0 {
		r.Violations = append(r.Violations, fmt.Sprintf("and %d more", more))
	}
	r.notes = from.rec.notes
}

// figures computes from the record.
func (r *Report) figures() {
	var took []time.Duration
	for _, c := range r.calls {
		if !c.ok {
			r.Failed++
			continue
		}
		r.Calls++
		took = append(took, c.took)
		if c.again {
			r.Retried++
		}
		if c.stale {
			r.Stale++
		}
	}
	slices.Sort(took)
	r.P50, r.P99 = quantile(took, 0.5), quantile(took, 0.99)
	r.Unavailable = waitedMost(r.calls)
	r.Outages, r.LagMost = make(map[string][]outage), make(map[string]time.Duration)
	for _, region := range r.Regions {
		r.Outages[region] = outages(r.probes, region)
	}
	for _, l := range r.lags {
		r.LagMost[l.region] = max(r.LagMost[l.region], l.lag)
	}
}

// Good reports whether nothing was violated, to the end.
func (r *Report) Good() bool { return len(r.Violations) == 0 && !r.Aborted }

// Object is the report for programs.
func (r *Report) Object() map[string]any {
	ms := func(d time.Duration) int64 { return d.Milliseconds() }
	regions, lag := map[string]int64{}, map[string]int64{}
	for _, region := range r.Regions {
		regions[region], lag[region] = ms(longest(r.Outages[region])), ms(r.LagMost[region])
	}
	violations := r.Violations
	if violations == nil {
		violations = []string{}
	}
	return map[string]any{
		"drill": r.Drill.Name, "aborted": r.Aborted, "acked": r.Acked, "lost": r.Lost, "doubled": r.Doubled, "unsure": r.Unsure,
		"unavailable_ms": ms(r.Unavailable), "recovered_ms": ms(r.RecoveredIn), "equal_ms": ms(r.EqualIn),
		"region_unavailable_ms": regions, "lag_worst_ms": lag, "calls": r.Calls, "failed": r.Failed, "retried": r.Retried, "stale": r.Stale,
		"p50_ms": tenths(r.P50), "p99_ms": tenths(r.P99), "carts": r.Carts, "diverged": r.Diverged, "violations": violations,
	}
}

// tenths is in milliseconds, to one digit.
func tenths(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}

// Verdict is the result in a line.
func (r *Report) Verdict() string {
	switch {
	case len(r.Violations) > 0:
		return fmt.Sprintf("FAILED: %d violations", cmp.Or(r.violated, len(r.Violations)))
	case r.Aborted:
		return "ABORTED before its end: what was broken is healed, and nothing was violated until then"
	}
	return "passed: nothing acknowledged was lost, nothing counted twice, all regions are equal"
}

// Row is one figure of the report, with what it means.
type Row struct{ Name, Value, Meaning string }

// Rows are the report's figures.
func (r *Report) Rows() []Row {
	rows := []Row{
		{"RPO: acknowledged edits lost", fmt.Sprint(r.Lost), fmt.Sprintf("of %d; %d lines with too much, %d in doubt", r.Acked, r.Doubled, r.Unsure)},
		{"RTO for shoppers", seconds(r.Unavailable), "the longest that any shopper had no answer"},
	}
	for _, region := range r.Regions {
		var times []string
		for _, o := range r.Outages[region] {
			times = append(times, fmt.Sprintf("%.1f–%.1f s", o.from.Seconds(), o.to.Seconds()))
		}
		meaning := "it made edits all the time"
		if len(times) > 0 {
			meaning = "a shard made no edits at " + strings.Join(times[:min(6, len(times))], ", ")
		}
		rows = append(rows, Row{"RTO of " + region, seconds(longest(r.Outages[region])), meaning})
	}
	rows = append(rows,
		Row{"recovered", seconds(r.RecoveredIn), "from the end of the fault until all nodes, leaders and links were as before"},
		Row{"equal", seconds(r.EqualIn), fmt.Sprintf("after the last edit; %d carts compared, %d differ", r.Carts, r.Diverged)},
		Row{"calls", fmt.Sprint(r.Calls), fmt.Sprintf("answered, %d of them after a retry, %d marked stale; %d calls in vain", r.Retried, r.Stale, r.Failed)},
		Row{"latency", seconds(r.P50), fmt.Sprintf("p50; p99 %s", seconds(r.P99))})
	for _, region := range r.Regions {
		rows = append(rows, Row{"largest lag from " + region, seconds(r.LagMost[region]), "behind its furthest peer"})
	}
	return rows
}

// seconds is a time as people read it.
func seconds(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	default:
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
}

// Where says what the drill was made on.
func (r *Report) Where() string {
	if r.Own {
		return fmt.Sprintf("%d regions of %d node processes and a gateway each, on loopback", len(r.Regions), localNodes)
	}
	return "an addressed cluster of " + strings.Join(r.Regions, ", ")
}

// Event is a note of the report.
type Event struct{ At, Text string }

// Events are what was done, and when.
func (r *Report) Events() (out []Event) {
	for _, n := range r.notes {
		out = append(out, Event{fmt.Sprintf("%.1f s", n.at.Seconds()), n.text})
	}
	return out
}

// SVG is the timeline.
func (r *Report) SVG() template.HTML {
	return template.HTML(timeline(r)) // every text in it was escaped
}

//go:embed report.html
var page string

// escaped keeps a text from being read as Markdown.
var escaped = strings.NewReplacer("|", `\|`, "<", "&lt;", "*", `\*`, "_", `\_`, "`", "\\`")

// markdown is the report as Markdown, beside timeline.svg.
func (r *Report) markdown() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Drill %s: %s\n", r.Drill.Name, escaped.Replace(r.Verdict()))
	line("%s. On %s; %s; %d shoppers, %g calls a second.\n", r.Drill.Does, r.Where(), r.Begun.UTC().Format(time.RFC3339), r.Options.Shoppers, r.Options.Rate)
	line("Expected: %s.\n", r.Drill.Expects)
	line("![timeline](timeline.svg)\n")
	line("| | | |\n|---|---|---|")
	for _, row := range r.Rows() {
		line("| %s | %s | %s |", escaped.Replace(row.Name), escaped.Replace(row.Value), escaped.Replace(row.Meaning))
	}
	line("\n## Violations\n")
	if len(r.Violations) == 0 {
		line("None.")
	}
	for _, v := range r.Violations {
		line("- %s", escaped.Replace(v))
	}
	line("\n## What was done\n\n| at | |\n|---|---|")
	for _, e := range r.Events() {
		line("| %s | %s |", e.At, escaped.Replace(e.Text))
	}
	return b.String()
}

// Write writes report.md, report.html and timeline.svg into a directory, which
// it makes where it is not there.
func (r *Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	t, err := template.New("report").Parse(page)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var html strings.Builder
	if err := t.Execute(&html, r); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	var errs []error
	for name, content := range map[string]string{"report.md": r.markdown(), "report.html": html.String(), "timeline.svg": timeline(r)} {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	return errors.Join(errs...)
}
