package main

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write what scenarios end with into their files")

// TestConcurrentEdits runs each file of testdata/concurrent: edits, one line
// each, with all links cut in between, and after "----" the cart that every
// region must show within two seconds of the heal.
func TestConcurrentEdits(t *testing.T) {
	files, err := filepath.Glob("testdata/concurrent/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	d := sharedDev(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script, want, ok := strings.Cut(string(b), "----\n")
			if !ok {
				t.Fatalf("%s has no ---- line", file)
			}
			s := d.shopper(t)
			heal := func() { t.Fatal("heal without cut") }
			for line := range strings.Lines(script) {
				line = strings.TrimSpace(line)
				switch {
				case line == "" || strings.HasPrefix(line, "#"):
				case line == "cut":
					heal = d.cut(t, links...)
				case line == "heal":
					heal()
				case line == "sync":
					s.converge(2 * time.Second)
				default:
					s.play(line)
				}
			}
			got, took := s.converge(2 * time.Second)
			t.Logf("equal in all regions %v after the last step", took.Round(time.Millisecond))
			if *rewrite {
				if err := os.WriteFile(file, []byte(script+"----\n"+got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got.String() != want {
				t.Errorf("all regions show:\n%swant:\n%s", got, want)
			}
		})
	}
}

// play makes the edits of one line, "REGION VERB [SKU|CODE [QUANTITY [PRICE]]]";
// edits joined by & are made at the same time.
func (s shopper) play(line string) {
	s.t.Helper()
	var together sync.WaitGroup
	parts := strings.Split(line, "&")
	errs := make([]error, len(parts))
	for i, part := range parts {
		together.Go(func() { errs[i] = s.edit(strings.Fields(part)) })
	}
	together.Wait()
	if err := errors.Join(errs...); err != nil {
		s.t.Fatalf("%s: %v", line, err)
	}
}

func (s shopper) edit(words []string) error {
	words = append(words, "", "", "")[:5]
	region, verb, sku, price := words[0], words[1], words[2], words[4]
	quantity, _ := strconv.Atoi(words[3]) // a verb without one has no use for it
	method, path, body := "", "/api/v1/cart", map[string]any(nil)
	switch verb {
	case "add":
		method, path, body = "POST", path+"/items", item(sku, quantity)
	case "price":
		s = s.with("X-Service-Scopes", "price")
		method, path, body = "POST", path+"/items", item(sku, quantity)
		body["price"] = json.Number(price)
	case "set":
		method, path, body = "PUT", path+"/items/"+sku, map[string]any{"quantity": quantity}
	case "remove":
		method, path = "DELETE", path+"/items/"+sku
	case "clear":
		method = "DELETE"
	case "code": // whose name is in the place of a SKU
		method, path, body = "POST", path+"/promotions", map[string]any{"code": sku}
	case "drop":
		method, path = "DELETE", path+"/promotions/"+sku
	default:
		return errors.New("no such verb")
	}
	var a answer
	var err error
	if body == nil {
		a, err = s.try(region, method, path, nil)
	} else {
		a, err = s.try(region, method, path, body)
	}
	if err == nil && a.status != 200 {
		err = errors.New(string(a.body))
	}
	return err
}
