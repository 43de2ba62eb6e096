package main

import (
	"fmt"
	"testing"
	"time"
)

// viaOf is the region that rows of one region go through on their way to
// another; ok says that all its shards' streams are open.
func viaOf(t testing.TB, d *running, from, to string) (via string, ok bool) {
	t.Helper()
	ok = true
	for _, s := range status(t, d, from).Shards {
		for _, p := range s.Peers {
			if p.Region == to {
				via, ok = p.Via, ok && p.Connected
			}
		}
		ok = ok && len(s.Peers) > 0
	}
	return via, ok
}

// direct waits until no region goes through another one.
func (r *running) direct(t testing.TB) time.Duration {
	t.Helper()
	return eventually(t, 6*time.Second, "all regions reach each other directly", func() bool {
		for _, from := range regions {
			for _, to := range regions {
				if via, ok := viaOf(t, r, from, to); from != to && (via != "" || !ok) {
					return false
				}
			}
		}
		return true
	})
}

// seen adds to the shopper's cart at one region and returns how long it takes
// until another shows it.
func seen(t testing.TB, s shopper, at, in, sku string) time.Duration {
	t.Helper()
	s.add(at, sku, 1)
	return eventually(t, 10*time.Second, fmt.Sprintf("%s shows what was added at %s", in, at), func() bool {
		return s.cart(in).quantity(sku) > 0
	})
}

// With one link cut and a third region that reaches both, edits go around: the
// first within three seconds, later ones as before.
func TestPartialPartitionIsRelayed(t *testing.T) {
	d := start(t, "", "--ephemeral") // a link that other tests have cut must answer for longer
	d.direct(t)
	a, b := "us-east", "eu-west"
	s := d.shopper(t)
	seen(t, s, a, b, "SKU-1")
	seen(t, s, b, a, "SKU-2")
	heal := d.cut(t, [2]string{a, b})
	first := make(chan time.Duration, 2)
	for i, way := range [][2]string{{a, b}, {b, a}} {
		go func() { first <- seen(t, d.shopper(t), way[0], way[1], fmt.Sprintf("SKU-%d", 3+i)) }()
	}
	for range 2 {
		if took := <-first; took > 3*time.Second {
			t.Errorf("the first edit after the cut took %v", took)
		} else {
			t.Logf("the first edit after the cut took %v", took)
		}
	}
	for _, way := range [][2]string{{a, b}, {b, a}} {
		eventually(t, 2*time.Second, "rows go through ap-south", func() bool {
			via, ok := viaOf(t, d, way[0], way[1])
			return ok && via == "ap-south"
		})
	}
	var worst time.Duration
	for i := range 20 {
		worst = max(worst, seen(t, s, a, b, fmt.Sprintf("SKU-%d", 10+i)), seen(t, s, b, a, fmt.Sprintf("SKU-%d", 40+i)))
	}
	t.Logf("later edits took %v at most", worst)
	if worst > 500*time.Millisecond {
		t.Errorf("an edit took %v through the third region", worst)
	}
	for _, r := range [][2]string{{a, "ap-south"}, {b, "ap-south"}, {"ap-south", a}, {"ap-south", b}} {
		if via, _ := viaOf(t, d, r[0], r[1]); via != "" {
			t.Errorf("%s reaches %s through %s, though nothing is cut there", r[0], r[1], via)
		}
	}
	heal()
	t.Logf("back on the direct way %v after the heal", d.direct(t))
	for i := range 5 {
		if took := seen(t, s, a, b, fmt.Sprintf("SKU-%d", 70+i)); took > 500*time.Millisecond {
			t.Errorf("an edit took %v on the direct way", took)
		}
	}
	s.converge(5 * time.Second)
}

// A shopper who edits at one region and goes to another that is cut off from it
// sees the edit: the fetch goes around too.
func TestCausalReadGoesAroundACut(t *testing.T) {
	d := sharedDev(t)
	d.cut(t, [2]string{"us-east", "eu-west"})
	s := d.shopper(t)
	seen(t, s, "us-east", "eu-west", "SKU-1") // until then the way may not be known
	eventually(t, 2*time.Second, "eu-west goes through ap-south", func() bool {
		via, ok := viaOf(t, d, "eu-west", "us-east")
		return ok && via == "ap-south"
	})
	for i := range 20 {
		token := s.add("us-east", fmt.Sprintf("SKU-%d", 10+i), 1).header.Get("Cart-Token")
		c := s.with("Cart-Token", token).cart("eu-west")
		if c.Stale || c.quantity(fmt.Sprintf("SKU-%d", 10+i)) != 1 {
			t.Fatalf("read %d is stale: %v\n%s", i, c.Stale, c)
		}
	}
}

// Both ways of the triangle cut: the region that has no link left is cut off,
// and the relay in between does not help; it catches up when it heals.
func TestNoWayAroundATotalCut(t *testing.T) {
	d := sharedDev(t)
	heal := d.cut(t, [2]string{"us-east", "eu-west"}, [2]string{"ap-south", "eu-west"})
	s := d.shopper(t)
	s.add("us-east", "SKU-1", 1)
	if _, ok := poll(3*time.Second, func() bool { return s.cart("eu-west").quantity("SKU-1") > 0 }); ok {
		t.Error("eu-west has no link and shows the edit")
	}
	heal()
	s.converge(5 * time.Second)
}
