package simulations

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

var rewriteFlag = flag.Bool("rewrite", false, "write the transcripts of scenarios anew; then read the difference")

// Every scenario of testdata answers what its file says.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	root, err := Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	for i, file := range files {
		if i%scenarioEvery != 0 {
			continue
		}
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testScenario(t, file, filepath.Join(root, name))
		})
	}
}

func testScenario(t *testing.T, file, root string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseScenario(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	var got []string
	synctest.Test(t, func(t *testing.T) { got, err = s.play(root, &locked{w: &log}) })
	if err != nil {
		t.Fatalf("%s: %v; so far:\n%s\n%s", file, err, strings.Join(got, "\n"), log.String())
	}
	got = annotated(got, s.want)
	if *rewriteFlag {
		script, _, _ := strings.Cut(string(text), divider)
		if err := os.WriteFile(file, []byte(script+divider+strings.Join(got, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !slices.Equal(got, s.want) {
		t.Errorf("%s: it comes to\n%s\nwant\n%s\n%s", file, strings.Join(got, "\n"), strings.Join(s.want, "\n"), firstDifference(got, s.want))
	}
}

// A comment stays with its answer, and goes when the answer is another.
func TestAnnotated(t *testing.T) {
	old := []string{"a -> 1  # one", "b -> 2    # two", "settle -> equal", "settle -> equal  # again"}
	got := annotated([]string{"a -> 1", "b -> 3", "settle -> equal", "settle -> equal"}, old)
	want := []string{"a -> 1           # one", "b -> 3", "settle -> equal", "settle -> equal  # again"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// What nobody can play is refused, not passed over.
func TestScenarioRefusals(t *testing.T) {
	for _, text := range []string{"us-east get\n", "regions mars\n----\n", "nodes many\n----\n"} {
		if _, err := parseScenario(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	for _, line := range []string{
		"us-east", "us-east buy SKU-1", "us-east add SKU-1", "us-east add SKU-1 some", "us-east add SKU-1[red] 1", "us-east add SKU-1 1 at=noon",
		"us-east add SKU-1 1 price=5", "us-east add SKU-1 1 price=EUR", "us-east get all", "us-east merge",
	} {
		if c, err := parseCall(strings.Fields(line)); err == nil {
			t.Errorf("%q is taken as %v", line, c)
		}
	}
}

func firstDifference(got, want []string) string {
	for i := range max(len(got), len(want)) {
		g, w := at(got, i), at(want, i)
		if g != w {
			return "first difference:\n- " + w + "\n+ " + g
		}
	}
	return ""
}

func at(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return "(nothing)"
}
