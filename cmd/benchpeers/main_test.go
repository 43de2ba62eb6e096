package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/samecart/samecart/cmd/cartctl/load"
)

// asCommand makes this test binary the command: targets that are handlers are
// processes of it.
const asCommand = "BENCHPEERS_TEST_RUN_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// measured runs the command for one target, and returns its measurements.
func measured(t *testing.T, target string) []*measurement {
	t.Helper()
	t.Setenv(asCommand, "1")
	c := &runCommand{Clients: []int{3}, Duration: 100 * time.Millisecond, Rounds: 2, Carts: 5, Lines: 2, Ops: []string{"add", "get"}}
	dir := t.TempDir()
	target1, err := c.start(t.Context(), target, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer target1.stop()
	var all []*measurement
	for range c.Rounds {
		for _, op := range target1.ops {
			r, err := c.measure(t.Context(), target1, op, 3)
			if err != nil {
				t.Fatal(err)
			}
			if r.Calls == 0 || r.CallsPer <= 0 || r.P50 <= 0 || r.client <= 0 {
				t.Errorf("%s: %+v", op, r)
			}
			all = add(all, target, op, 3, r)
		}
	}
	return all
}

func TestEmptyHandler(t *testing.T) {
	all := measured(t, "empty")
	if len(all) != 2 || len(all[0].rounds) != 2 {
		t.Fatalf("measurements %+v", all)
	}
}

func TestTable(t *testing.T) {
	of := func(target string, perSecond ...float64) *measurement {
		m := &measurement{target: target, op: "add", clients: 64}
		for _, x := range perSecond {
			m.rounds = append(m.rounds, round{Result: load.Result{CallsPer: x, Calls: 7}})
		}
		return m
	}
	all := []*measurement{of("empty", 1000, 2000, 4000), of("etcd", 100, 100, 100), of("samecart", 400, 1000, 1000)}
	var out bytes.Buffer
	if err := table(&out, all); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if got := strings.Fields(lines[3]); got[2] != "samecart" || got[3] != "1000" || got[8] != "0.40" || got[9] != "10.00" {
		t.Errorf("row %v", got)
	}
	if got := strings.Fields(lines[1]); got[8] != "1.00" {
		t.Errorf("row %v", got)
	}
	if got := ratio(all[2], nil); got != "-" {
		t.Errorf("ratio to nothing: %s", got)
	}
	if got := middle([]float64{1, 2, 3, 4}); got != 2.5 {
		t.Errorf("median %v", got)
	}
	if got := benchFormat(all); strings.Count(got, "BenchmarkPeers/add/target=samecart/clients=64 7 ") != 3 {
		t.Errorf("for benchstat:\n%s", got)
	}
}

func TestWireFields(t *testing.T) {
	inner := protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 77)
	b := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), inner)
	b = protowire.AppendVarint(protowire.AppendTag(b, 4, protowire.VarintType), 77)
	header, _ := field(b, 1)
	_, self := field(header, 2)
	_, leader := field(b, 4)
	if self != 77 || leader != 77 {
		t.Errorf("self %d, leader %d", self, leader)
	}
	if m, n := field(b[:len(b)-1], 4); m != nil || n != 0 {
		t.Errorf("of a cut message: %v %d", m, n)
	}
}

func TestFlagsAreChecked(t *testing.T) {
	good := runCommand{Clients: []int{1}, Duration: 1, Rounds: 1, Carts: 1, Lines: 1}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for flag, spoil := range map[string]func(*runCommand){
		"--clients": func(c *runCommand) { c.Clients = []int{0} }, "--duration": func(c *runCommand) { c.Duration = 0 },
		"--rounds": func(c *runCommand) { c.Rounds = 0 }, "--carts": func(c *runCommand) { c.Carts = 0 }, "--lines": func(c *runCommand) { c.Lines = 501 },
	} {
		c := good
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}
