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
	for _, file := range files {
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
