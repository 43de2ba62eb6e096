package main

import (
	"strings"
	"testing"
)

func TestLimitCommands(t *testing.T) {
	_, addr := newFake(t)
	set := ctl(t, "limit", "set", "TEN", "100", "--per-customer", "2", "--addr", addr, "--json")
	if out := set.object(t); set.code != 0 || at(t, out, "code") != "TEN" || at(t, out, "limit") != 100.0 || at(t, out, "per_customer") != 2.0 {
		t.Errorf("limit set: %d %v", set.code, out)
	}
	for _, args := range [][]string{{"limit", "show", "TEN"}, {"limit", "show", "TEN", "--region", "eu-west"}} {
		show := ctl(t, append(args, "--addr", addr)...)
		if show.code != 0 || !strings.Contains(show.stdout, "TEN: 7 of 100 used") || !strings.Contains(show.stdout, "93") {
			t.Errorf("%v: %d %s %s", args, show.code, show.stdout, show.stderr)
		}
	}
	if none := ctl(t, "limit", "show", "NOPE", "--addr", addr); none.code != 1 || !strings.Contains(none.stderr, "NOPE has no limit") {
		t.Errorf("limit show NOPE: %d %s", none.code, none.stderr)
	}
	redeem := ctl(t, "redeem", "TEN", "--user", "ann", "--addr", addr, "--json")
	if out := redeem.object(t); redeem.code != 0 || at(t, out, "redeemed") != true || at(t, out, "left_here") != 4.0 {
		t.Errorf("redeem: %d %v", redeem.code, out)
	}
	gone := ctl(t, "redeem", "GONE", "--user", "ann", "--addr", addr, "--json")
	if out := gone.object(t); gone.code != 1 || at(t, out, "error", "code") != "PROMOTION_EXHAUSTED" {
		t.Errorf("redeem GONE: %d %v", gone.code, out)
	}
	for _, args := range [][]string{{"redeem", "TEN"}, {"limit", "set", "TEN"}, {"limit", "set", "TEN", "-1"}} {
		if wrong := ctl(t, append(args, "--addr", addr)...); wrong.code != 2 {
			t.Errorf("%v: exit %d, want 2", args, wrong.code)
		}
	}
}
