package drill

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what it was; -rewrite writes it, then read the difference. Now it is:\n%s", name, got)
	}
}

// sample is the report of a drill that might have been.
func sample(t *testing.T) *Report {
	t.Helper()
	d, err := Find("region-loss")
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{
		Drill: d, Begun: time.Date(2026, 1, 6, 10, 0, 0, 0, time.UTC), Options: DefaultOptions(), Own: true, Regions: localRegions,
		Acked: 90, RecoveredIn: 1400 * ms, EqualIn: 80 * ms, Carts: 36, until: 6 * time.Second,
	}
	for i := range 60 {
		at := time.Duration(i) * 100 * ms
		dead := i >= 20 && i < 40
		c := call{end: at + 50*ms, took: 12 * ms, waited: 12 * ms, ok: true, region: "us-east"}
		if dead {
			c.took, c.waited, c.again, c.stale, c.region = 45*ms, 45*ms, true, i%3 == 0, "eu-west"
		}
		r.calls = append(r.calls, c)
		if i == 20 || i == 21 {
			r.calls = append(r.calls, call{end: at + 60*ms, took: 600 * ms})
		}
		for _, region := range localRegions {
			r.probes = append(r.probes, probe{region, 0, at, at + 10*ms, region != "us-east" || !dead})
			if lag := 10 * ms; i%3 == 0 && (region != "us-east" || !dead) {
				if dead {
					lag = at - 2*time.Second
				}
				r.lags = append(r.lags, lagSample{at, region, lag})
			}
		}
	}
	r.bands = []band{{"us-east dead", 2 * time.Second, 4 * time.Second}}
	r.notes = []note{{0, "30 shoppers make 60 calls a second"}, {2 * time.Second, "kill region us-east"}}
	r.figures()
	return r
}

func TestTimelineIsGolden(t *testing.T) {
	svg := timeline(sample(t))
	golden(t, "timeline.svg", svg)
	wellFormed(t, svg)
}

func wellFormed(t *testing.T, svg string) {
	t.Helper()
	in := xml.NewDecoder(strings.NewReader(svg))
	for {
		_, err := in.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("the picture is no XML: %v", err)
		}
	}
}

func TestTimelineOfNothing(t *testing.T) {
	wellFormed(t, timeline(&Report{Regions: []string{"<a&b>"}, Drill: Drill{Name: `"<x>`}, Violations: []string{"<"}}))
}

func TestReportIsGolden(t *testing.T) {
	golden(t, "report.md", sample(t).markdown())
}

func TestReportIsWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "report")
	r := sample(t)
	r.Violations, r.Lost = []string{"drill-x-1: all regions hold 0 of SKU-1, expected <1>"}, 1
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	for name, wants := range map[string][]string{
		"report.md":    {"FAILED: 1 violations", "expected &lt;1>", "timeline.svg"},
		"report.html":  {"FAILED: 1 violations", "expected &lt;1&gt;", "<svg", "RTO of us-east"},
		"timeline.svg": {"<svg", "us-east dead", "FAILED"},
	} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(content), want) {
				t.Errorf("%s has no %q", name, want)
			}
		}
		if strings.Contains(string(content), "http://") && !strings.Contains(string(content), "http://www.w3.org/2000/svg") {
			t.Errorf("%s is not self-contained", name)
		}
	}
}

// TestReportIsJudged plants what must fail a drill.
func TestReportIsJudged(t *testing.T) {
	r := sample(t)
	if !r.Good() || !strings.HasPrefix(r.Verdict(), "passed") {
		t.Errorf("a good one: %s", r.Verdict())
	}
	r.Aborted = true
	if r.Good() || !strings.HasPrefix(r.Verdict(), "ABORTED") {
		t.Errorf("an aborted one: %s", r.Verdict())
	}
	r = sample(t)
	r.Unavailable = r.Drill.ShoppersWithin + ms
	from := &run{drill: r.Drill, rec: newRecorder(), shoppers: &shoppers{}, cfg: Config{Note: func(string, ...any) {}}}
	r.calls = append(r.calls, call{ok: true, waited: r.Drill.ShoppersWithin + ms})
	r.finish(from)
	if r.Good() || len(r.Violations) != 1 || !strings.Contains(r.Violations[0], "no answer") {
		t.Errorf("a shopper who waited for too long: %q", r.Violations)
	}
}

func TestObject(t *testing.T) {
	line, err := json.Marshal(sample(t).Object())
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(line, &out); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"acked", "lost", "unavailable_ms", "recovered_ms", "violations"} {
		if _, ok := out[key]; !ok {
			t.Errorf("no %q in %s", key, line)
		}
	}
	if list, ok := out["violations"].([]any); !ok || len(list) != 0 {
		t.Errorf("violations %v, want an empty list", out["violations"])
	}
	if regions, ok := out["region_unavailable_ms"].(map[string]any); !ok || regions["us-east"] != 2010.0 || regions["eu-west"] != 0.0 {
		t.Errorf("unavailable by region: %v", out["region_unavailable_ms"])
	}
}

// TestPlans writes what every drill would do.
func TestPlans(t *testing.T) {
	var all strings.Builder
	for _, d := range List() {
		for _, text := range []string{d.Name, d.Does, d.Expects} {
			if text == "" || strings.HasSuffix(text, ".") {
				t.Errorf("%s: %q", d.Name, text)
			}
		}
		if d.ShoppersWithin <= 0 || d.RecoversWithin <= 0 {
			t.Errorf("%s has no bounds", d.Name)
		}
		lines, err := d.Plan(Config{Options: DefaultOptions()}, localRegions)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s: %s\n", d.Name, d.Does)
		for _, l := range lines {
			about := ""
			if l.About {
				about = " or later"
			}
			fmt.Fprintf(&all, "  %4.0f s%s: %s\n", l.At.Seconds(), about, l.Text)
		}
		_, err = d.Plan(Config{Options: DefaultOptions(), Addr: "http://127.0.0.1:8080"}, localRegions)
		if (d.Local != "") != errors.Is(err, ErrCannot) {
			t.Errorf("%s addressed: %v", d.Name, err)
		}
	}
	golden(t, "plans.txt", all.String())
	if _, err := Find("nothing"); err == nil || !strings.Contains(err.Error(), "region-loss") {
		t.Errorf("an unknown drill: %v", err)
	}
	d, _ := Find("partition")
	o := DefaultOptions()
	o.Region = "mars"
	if _, err := d.Plan(Config{Options: o}, localRegions); !errors.Is(err, ErrCannot) || !strings.Contains(err.Error(), "ap-south") {
		t.Errorf("an unknown region: %v", err)
	}
	o.Region = "eu-west"
	lines, err := d.Plan(Config{Options: o}, localRegions)
	if err != nil || !strings.Contains(lines[2].Text, "eu-west") {
		t.Errorf("another region: %v, %v", lines, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for _, want := range []string{"--shoppers", "--rate", "--hold"} {
		o := DefaultOptions()
		switch want {
		case "--shoppers":
			o.Shoppers = 0
		case "--rate":
			o.Rate = 6 * float64(o.Shoppers)
		case "--hold":
			o.Hold = 0
		}
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if err := DefaultOptions().Validate(); err != nil {
		t.Error(err)
	}
}

func TestUsersOfShards(t *testing.T) {
	users := usersOf("probe", 5)
	for i, user := range users {
		if user == "" {
			t.Errorf("no user for shard %d: %v", i, users)
		}
	}
}
