package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Every mutant is still of this tree: its lines stand once in their file, and
// its test is there. The mutants themselves are run by 'make mutants'.
func TestMutantsApply(t *testing.T) {
	const root = "../.."
	b, err := os.ReadFile("mutants.txt")
	if err != nil {
		t.Fatal(err)
	}
	mutants, err := parse(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if len(mutants) < 30 {
		t.Fatalf("%d mutants, want at least 30", len(mutants))
	}
	for _, m := range mutants {
		if _, err := m.apply(root); err != nil {
			t.Errorf("mutant %s, line %d: %v", m.name, m.line, err)
		}
		if err := m.hasTest(root); err != nil {
			t.Errorf("mutant %s, line %d: %v", m.name, m.line, err)
		}
	}
}

const sound = `# A comment.

mutant one-two
story: It is wrong.
file: code.go
test: ./sub TestIt
flags: -race -tags x
 func f() int {
-	return 1
+	return 2
`

func TestParse(t *testing.T) {
	got, err := parse(sound)
	if err != nil || len(got) != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	m := got[0]
	if m.name != "one-two" || m.story != "It is wrong." || m.file != "code.go" || m.pkg != "./sub" || m.test != "TestIt" ||
		strings.Join(m.flags, " ") != "-race -tags x" || m.line != 3 ||
		m.old != "func f() int {\n\treturn 1\n" || m.new != "func f() int {\n\treturn 2\n" {
		t.Fatalf("%+v", m)
	}
}

func TestParseErrors(t *testing.T) {
	for _, c := range []struct{ old, new, want string }{
		{"mutant one-two", "mutant One", "small letters"},
		{"mutant one-two\n", "", "stands outside of a mutant"},
		{"story: It is wrong.\n", "", "no story"},
		{"It is wrong.", "a | b", "would end a cell"},
		{"story: It", "story: no\nstory: It", "line 5: story is given twice"},
		{"story: It is wrong.", "story: ", "story is empty"},
		{"file: code.go", "file: ../code.go", "is none of the module's"},
		{"./sub", "sub", "give it as ./path"},
		{"TestIt", "^TestIt", "give the name of one test function"},
		{"flags:", "flag:", "is none of story, file, test, flags and survives"},
		{" func f() int {\n-	return 1\n", "", "says where to change the file"},
		{"+	return 2", "+	return 1", "it changes nothing"},
		{sound, sound + "\n" + sound, "it is there since line 3"},
	} {
		_, err := parse(strings.Replace(sound, c.old, c.new, 1))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("with %q: error %v, want one with %q", c.new, err, c.want)
		}
	}
}

func TestApply(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"code.go": "a\n\tx\n\tx\nb\n\txy\n"})
	for _, c := range []struct{ old, new, want string }{
		{"a\n", "c\n", "c\n\tx\n\tx\nb\n\txy\n"},
		{"\txy\n", "", "a\n\tx\n\tx\nb\n"},
		{"\tx\nb\n", "b\n", "a\n\tx\nb\n\txy\n"},
		{"\tx\n", "", "more than once"}, // as whole lines, of which two follow each other
		{"xy\n", "", "does not have the old lines"},
		{"\txy\nend\n", "", "does not have the old lines"},
	} {
		got, err := mutant{file: "code.go", old: c.old, new: c.new}.apply(dir)
		if err != nil {
			got = err.Error()
		}
		if got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%q to %q: %q, want %q", c.old, c.new, got, c.want)
		}
	}
	if _, err := (mutant{file: "gone.go", old: "a\n"}).apply(dir); err == nil {
		t.Error("a file that is not there was changed")
	}
}

// The whole of it, on a module of its own.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	code := "package code\n\nfunc Sum(a, b int) int {\n\treturn a + b\n}\n\nfunc Unused() int {\n\treturn 1\n}\n"
	write(t, dir, map[string]string{
		"go.mod":  "module example.com/code\n\ngo 1.26\n",
		"code.go": code,
		"code_test.go": `package code

import "testing"

func TestSum(t *testing.T) {
	if Sum(2, 3) != 5 {
		t.Fatal("not 5")
	}
}

func TestFails(t *testing.T) { t.Fatal("always") }

func TestSkips(t *testing.T) { t.Skip("always") }
`,
		"README.md": "before\n" + tableBegin + "\nold\n" + tableEnd + "\nafter\n",
	})
	t.Chdir(dir)
	entry := func(name, more, hunk string) string {
		return "mutant " + name + "\nstory: Story of " + name + ".\nfile: code.go\n" + more + "\n" + hunk + "\n"
	}
	const (
		sum     = "test: ./. TestSum"
		minus   = "-	return a + b\n+	return a - b\n"
		unused  = "-	return 1\n+	return 2\n"
		nothing = "-	return a + b\n+	return a +\n"
		endless = "-	return a + b\n+	for a != 99 {\n+	}\n+	return b\n"
	)
	for _, c := range []struct {
		name, data string
		args       []string
		code       int
		out, err   string // what they contain; "": nothing at all
	}{
		{"killed", entry("m", sum, minus), nil, 0, "| m | Story of m. | `TestSum` in . |", ""},
		{"hangs", entry("m", sum, endless), []string{"-timeout", "100ms"}, 0, "| m |", ""},
		{"survives", entry("m", sum, unused), nil, 1, "**nobody**, not even `TestSum`", "m: SURVIVED"},
		{"explained", entry("m", sum+"\nsurvives: it is not used", unused), nil, 0, "survives: it is not used", ""},
		{"compiles not", entry("m", sum, nothing), nil, 1, "does not compile", "does not compile"},
		{"stale", entry("m", sum, "-	return 3\n+	return 4\n"), nil, 1, "no longer applies", "does not have the old lines"},
		{"no test", entry("m", "test: ./. TestGone", minus), nil, 1, "has no test TestGone", "has no test TestGone"},
		{"skipped", entry("m", "test: ./. TestSkips", minus), nil, 2, "", "was skipped"},
		{"fails anyway", entry("m", "test: ./. TestFails", minus), nil, 2, "", "fail without a mutant"},
		{"one of two", entry("m", sum, minus) + entry("n", sum, unused), []string{"-run", "m"}, 0, "| m |", ""},
		{"unknown name", entry("m", sum, minus), []string{"-run", "o"}, 2, "", `no mutant "o"`},
		{"bad data", "mutant m\n", nil, 2, "", "no story"},
		{"table", entry("m", sum, minus), []string{"-table", "README.md"}, 0, "", ""},
		{"half a table", entry("m", sum, minus), []string{"-table", "README.md", "-run", "m"}, 2, "", "leave -run out"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, dir, map[string]string{"mutants.txt": c.data})
			var out bytes.Buffer
			code, err := run(context.Background(), append([]string{"-data", "mutants.txt"}, c.args...), &out)
			if code != c.code || !contains(out.String(), c.out) {
				t.Errorf("code %d, want %d; output\n%s", code, c.code, out.String())
			}
			if (err == nil) != (c.err == "") || err != nil && !contains(err.Error(), c.err) {
				t.Errorf("error %v, want %q", err, c.err)
			}
		})
	}
	if b, err := os.ReadFile("code.go"); err != nil || string(b) != code {
		t.Errorf("the tree was changed: %q, %v", b, err)
	}
	b, err := os.ReadFile("README.md")
	if got := string(b); err != nil || !strings.HasPrefix(got, "before\n"+tableBegin+"\n| mutant |") || !strings.HasSuffix(got, "\n"+tableEnd+"\nafter\n") || strings.Contains(got, "old") {
		t.Errorf("README is\n%s\n%v", got, err)
	}
}

func TestInterruptedRunSaysSo(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"go.mod":       "module example.com/code\n\ngo 1.26\n",
		"code_test.go": "package code\n\nimport \"testing\"\n\nfunc TestSlow(t *testing.T) { select {} }\n",
	})
	ctx, cancel := context.WithCancel(t.Context())
	j := judge{root: dir, scratch: t.TempDir(), limit: time.Hour}
	done := make(chan error, 1)
	go func() {
		_, err := j.test(ctx, "./.", nil, "^TestSlow$")
		done <- err
	}()
	cancel()
	if err := <-done; err == nil {
		t.Fatal("a run that was interrupted is an outcome")
	}
}

func contains(s, part string) bool {
	if part == "" {
		return s == ""
	}
	return strings.Contains(s, part)
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
