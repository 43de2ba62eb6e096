package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/samecart/samecart/simulations/drill"
)

func TestDrillList(t *testing.T) {
	people := ctl(t, "drill", "list")
	object := ctl(t, "drill", "list", "--json").object(t)
	if people.code != exitGood {
		t.Fatalf("exit %d: %s", people.code, people.stderr)
	}
	all, _ := object["drills"].([]any)
	if len(all) != len(drill.List()) {
		t.Errorf("%d drills, want %d", len(all), len(drill.List()))
	}
	for i, d := range drill.List() {
		if at(t, all, i, "name") != d.Name || !strings.Contains(people.stdout, d.Name) || at(t, all, i, "risks") == "" {
			t.Errorf("%s is not listed in full: %v", d.Name, all[i])
		}
	}
	for _, want := range []string{"region-loss", "Risk:", "--dry-run", "--report"} {
		if help := ctl(t, "drill", "--help"); help.code != exitGood || !strings.Contains(help.stdout, want) {
			t.Errorf("the help has no %q", want)
		}
	}
}

func TestDrillDryRun(t *testing.T) {
	// Nothing is there to be touched: no binary, no address.
	r := ctl(t, "drill", "partition", "--dry-run", "--region", "eu-west", "--hold", "30s", "--report", "/nowhere/at/all", "--json")
	if r.code != exitGood {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	object := r.object(t)
	if at(t, object, "dry_run") != true || at(t, object, "steps", 2, "at_s") != 4.0 || at(t, object, "steps", 3, "at_s") != 34.0 {
		t.Errorf("%v", object)
	}
	if text, _ := at(t, object, "steps", 2, "does").(string); !strings.Contains(text, "eu-west") {
		t.Errorf("the step says %q", text)
	}
	people := ctl(t, "drill", "partition", "--dry-run")
	if !strings.Contains(people.stdout, "heal") || !strings.Contains(people.stdout, "risk") {
		t.Errorf("for people: %s", people.stdout)
	}
}

func TestDrillUsage(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"unknown":         {[]string{"drill", "nothing"}, "region-loss"},
		"no name":         {[]string{"drill"}, "name"},
		"no shoppers":     {[]string{"drill", "partition", "--shoppers", "0"}, "--shoppers 0"},
		"too fast":        {[]string{"drill", "partition", "--shoppers", "1", "--rate", "6"}, "--rate 6"},
		"no time":         {[]string{"drill", "partition", "--hold", "0s"}, "--hold 0s"},
		"unknown region":  {[]string{"drill", "partition", "--dry-run", "--region", "mars"}, `--region "mars"`},
		"no binary":       {[]string{"drill", "partition", "--cartd", "/no/cartd"}, "/no/cartd"},
		"no older binary": {[]string{"drill", "rolling-upgrade", "--cartd", "/bin/sh"}, "--from"},
		"from elsewhere":  {[]string{"drill", "partition", "--from", "/bin/sh"}, "--from"},
		"not addressed":   {[]string{"drill", "full-disk", "--addr", "http://127.0.0.1:1"}, "--local"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ctl(t, append(c.args, "--json")...)
			if r.code != exitUsage || !strings.Contains(r.stderr, c.want) {
				t.Errorf("exit %d, want %d: %s", r.code, exitUsage, r.stderr)
			}
			if at(t, r.object(t), "error", "code") != "USAGE" {
				t.Errorf("%s", r.stdout)
			}
		})
	}
	if r := ctl(t, "drill", "partition", "--addr", "http://127.0.0.1:1", "--json"); r.code == exitGood {
		t.Errorf("nothing is there: %s", r.stdout)
	}
}

// TestDrillRefusesWhatIsNotWell shows that nothing is touched where a drill would
// prove nothing.
func TestDrillRefusesWhatIsNotWell(t *testing.T) {
	f, addr := newFake(t)
	f.drills = true
	if r := ctl(t, "link", "cut", "us-east", "eu-west", "--addr", addr); r.code != exitGood {
		t.Fatal(r.stderr)
	}
	before := len(f.log)
	r := ctl(t, "drill", "region-loss", "--addr", addr, "--json")
	if r.code != exitUsage || !strings.Contains(r.stderr, "cut or delayed already") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
	if len(f.log) != before {
		t.Errorf("it was touched: %v", f.log[before:])
	}
}

// cartd builds the server, once.
var cartd = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cartctl-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "cartd")
	out, err := exec.Command("go", "build", "-o", path, "../cartd").CombinedOutput()
	if err != nil {
		return "", &buildError{string(out)}
	}
	return path, nil
})

type buildError struct{ said string }

func (e *buildError) Error() string { return "build cartd: " + e.said }

// TestDrillOfProcesses makes a whole drill on real processes.
func TestDrillOfProcesses(t *testing.T) {
	path, err := cartd()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(path)) })
	dir := t.TempDir()
	r := ctl(t, "drill", "leader-kill", "--cartd", path, "--hold", "3s", "--shoppers", "6", "--rate", "20", "--report", dir, "--json")
	if r.code != exitGood {
		t.Fatalf("exit %d: %s\n%s", r.code, r.stdout, r.stderr)
	}
	object := r.object(t)
	if acked, _ := at(t, object, "acked").(float64); acked < 20 || at(t, object, "lost") != 0.0 || at(t, object, "aborted") != false {
		t.Errorf("%v", object)
	}
	if waited, _ := at(t, object, "region_unavailable_ms", "us-east").(float64); waited < 100 {
		t.Errorf("the leader was killed, and its region had no outage: %v", object)
	}
	for _, name := range []string{"report.md", "report.html", "timeline.svg"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	t.Run("aborted", func(t *testing.T) {
		// Interrupted while the region is away: it is started again, and judged.
		ctx, interrupt := context.WithCancel(t.Context())
		defer interrupt()
		seen := &until{text: "kill region us-east", then: interrupt}
		code := run(ctx, []string{"drill", "region-loss", "--cartd", path, "--hold", "1h", "--shoppers", "6", "--rate", "20", "--json", "--report", dir}, &seen.out, seen)
		r := result{code, seen.out.String(), seen.String()}
		object := r.object(t)
		if code != exitFailed || at(t, object, "aborted") != true || at(t, object, "lost") != 0.0 {
			t.Errorf("exit %d: %s\n%s", code, r.stdout, r.stderr)
		}
		if list, _ := at(t, object, "violations").([]any); len(list) != 0 {
			t.Errorf("%v", list)
		}
		if text, err := os.ReadFile(filepath.Join(dir, "report.md")); err != nil || !strings.Contains(string(text), "ABORTED") {
			t.Errorf("the report does not say so: %v: %s", err, text)
		}
	})
}

// until calls something, a moment after a text was written.
type until struct {
	mu   sync.Mutex
	text string
	then func()
	said strings.Builder
	out  strings.Builder
	once sync.Once
}

// Write implements io.Writer.
func (u *until) Write(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.said.Write(b)
	if strings.Contains(u.said.String(), u.text) {
		u.once.Do(func() { time.AfterFunc(time.Second, u.then) })
	}
	return len(b), nil
}

func (u *until) String() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.said.String()
}
