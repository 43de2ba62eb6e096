package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc"
)

// result is one run of the command.
type result struct {
	code           int
	stdout, stderr string
}

func ctl(t testing.TB, args ...string) result {
	t.Helper()
	return ctlCtx(t.Context(), args...)
}

func ctlCtx(ctx context.Context, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// object reads the one line that --json promises.
func (r result) object(t testing.TB) map[string]any {
	t.Helper()
	if strings.Count(r.stdout, "\n") != 1 || !strings.HasSuffix(r.stdout, "\n") {
		t.Fatalf("stdout is not one line: %q (stderr %q)", r.stdout, r.stderr)
	}
	var out map[string]any
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("stdout %q: %v", r.stdout, err)
	}
	return out
}

// at walks a path of names and positions into a JSON value.
func at(t testing.TB, v any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if _, has := m[p]; !ok || !has {
				t.Fatalf("no %q in %v", p, v)
			}
			v = m[p]
		case int:
			list, ok := v.([]any)
			if !ok || p >= len(list) {
				t.Fatalf("no position %d in %v", p, v)
			}
			v = list[p]
		}
	}
	return v
}

func TestWrongUsageExits2(t *testing.T) {
	_, addr := newFake(t)
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.csv")
	if err := os.WriteFile(bad, []byte("InvoiceNo,StockCode,Quantity,UnitPrice,Country\n1,A,one,1,USA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args string
		says string
	}{
		{"", "expected"},
		{"dance", "unexpected argument dance"},
		{"get --user u --bogus", "unknown flag --bogus"},
		{"get", "whose cart"},
		{"get --user u --guest g", "two carts"},
		{"get --user u --region mars", `"mars" is unknown: there are ap-south, eu-west, us-east`},
		{"get --user u --addr ftp://x", "ftp://x"},
		{"get --user u --token nowhere", "token"},
		{"add SKU-1 lots --user u", "lots"},
		{"set SKU-1 --user u", "quantity"},
		{"add --user u", "sku"},
		{"link cut us-east", "<b>"},
		{"link delay us-east eu-west soon", "soon"},
		{"link delay us-east eu-west 1s --config " + bad, "YAML"},
		{"node kill us-east", "REGION/N"},
		{"replay --cut us-east:1%-2%", "A,B:FROM%-TO%"},
		{"replay --cut us-east,eu-west:66%-33%", "end after it begins"},
		{"replay --limit 5 --cut us-east,mars:1%-2%", `"mars" is unknown`},
		{"replay --kill us-east:1%-2%", "REGION/N"},
		{"replay --limit 5 --kill mars/1:1%-2%", `"mars" is unknown`},
		{"replay --limit=-5", "negative"},
		{"replay --clients 0", "--clients"},
		{"replay --rate=-1", "--rate"},
		{"replay --data " + filepath.Join(dir, "none.csv"), "none.csv"},
		{"replay --data " + dir, dir},
		{"replay --data " + bad, "bad.csv, line 2: Quantity \"one\" is not a whole number"},
		{"bench swim", "swim"},
		{"bench add --clients 0", "--clients"},
		{"backup", "--region"},
		{"backup --region us-east", "--to"},
		{"backup --region mars --to " + dir, `"mars" is unknown`},
		{"backup --region us-east --to ftp://host", "ftp://host"},
		{"backup --region us-east --to " + bad, "bad.csv"},
		{"backup --region us-east --full-every=-1 --to " + dir, "--full-every"},
		{"backup list --from " + filepath.Join(dir, "none"), "none"},
		{"backup verify --from " + dir, "no such backup"},
		{"restore --region us-east", "--from"},
		{"restore --region us-east --from " + dir, "no such backup"},
		{"restore --region us-east --from " + dir + " --at yesterday", "yesterday"},
		{"token --user u", "--key"},
		{"token --key none.pem --user u", "none.pem"},
		{"token --key none.pem", "whose token"},
		{"token --key none.pem --scopes sudo", `"sudo" is unknown`},
	} {
		args := append([]string{"--json"}, strings.Fields(c.args)...)
		if !strings.Contains(c.args, "--addr") {
			args = append(args, "--addr", addr)
		}
		r := ctl(t, args...)
		if r.code != exitUsage || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%q: exit %d, %q; want 2 and %q", c.args, r.code, r.stderr, c.says)
			continue
		}
		if code := at(t, r.object(t), "error", "code"); code != "USAGE" {
			t.Errorf("%q: error code %v", c.args, code)
		}
	}
}

func TestHelpExits0(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"replay", "--help"}, {"link", "--help"}, {"backup", "--help"}, {"restore", "--help"}} {
		if r := ctl(t, args...); r.code != exitGood || !strings.Contains(r.stdout, "Usage: cartctl") {
			t.Errorf("%v: exit %d, %q", args, r.code, r.stdout)
		}
	}
}

// TestServerThatIsNotThere checks every command that needs one.
func TestServerThatIsNotThere(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	addr := server.URL
	server.Close() // the port is free again
	for _, args := range []string{
		"get --user u", "add SKU-1 --user u", "get --user u --region us-east", "regions", "verify", "link cut a b", "node kill a/1",
		"region start a", "replay --limit 5", "bench get --duration 10ms",
	} {
		r := ctl(t, append(strings.Fields(args), "--json", "--addr", addr)...)
		if r.code != exitFailed || !strings.Contains(r.stderr, "make run") || !strings.Contains(r.stderr, strings.TrimPrefix(addr, "http://")) {
			t.Errorf("%s: exit %d, %q; want 1, the address and what to start", args, r.code, r.stderr)
		}
		if code := at(t, r.object(t), "error", "code"); code != "UNREACHABLE" {
			t.Errorf("%s: error code %v", args, code)
		}
	}
}

func TestCartCommands(t *testing.T) {
	f, addr := newFake(t)
	t.Setenv("SAMECART_ADDR", addr)
	added := ctl(t, "add", "SKU-456", "2", "--user", "user-123", "--json")
	if o := added.object(t); added.code != exitGood || at(t, o, "cart_id") != "cart:user-123" || at(t, o, "item_count") != 2.0 ||
		at(t, o, "item", "quantity") != 2.0 || at(t, o, "item", "price_at_add") != 29.99 || at(t, o, "region") != "us-east" {
		t.Errorf("add: %d %s", added.code, added.stdout)
	}
	if !strings.Contains(added.stdout, `"price_at_add":29.99`) {
		t.Errorf("money is not a decimal number: %s", added.stdout)
	}
	again := ctl(t, "add", "SKU-456", "--user", "user-123", "--idempotency-key", "k1")
	replayed := ctl(t, "add", "SKU-456", "--user", "user-123", "--idempotency-key", "k1", "--json")
	if o := replayed.object(t); again.code != exitGood || at(t, o, "item_count") != 3.0 || at(t, o, "replayed") != true {
		t.Errorf("the same key twice: %s", replayed.stdout)
	}
	got := ctl(t, "get", "--user", "user-123", "--region", "eu-west", "--json")
	o := got.object(t)
	if at(t, o, "items", 0, "quantity") != 3.0 || at(t, o, "region") != "eu-west" || at(t, o, "subtotal") != 59.98 ||
		at(t, o, "items", 0, "added_at") != "2023-11-14T22:13:20.123Z" || len(at(t, o, "saved_items").([]any)) != 0 {
		t.Errorf("get: %s", got.stdout)
	}
	people := ctl(t, "get", "--user", "user-123")
	for _, want := range []string{"cart:user-123: 3 items, subtotal 59.98 USD", "SKU-456", "Wireless Mouse", "29.99 USD", "region us-east"} {
		if !strings.Contains(people.stdout, want) {
			t.Errorf("get for people lacks %q:\n%s", want, people.stdout)
		}
	}
	if o := ctl(t, "set", "SKU-456", "7", "--user", "user-123", "--json").object(t); at(t, o, "item", "quantity") != 7.0 {
		t.Errorf("set: %v", o)
	}
	if o := ctl(t, "set", "SKU-456", "0", "--user", "user-123", "--json").object(t); at(t, o, "item_count") != 0.0 || o["item"] != nil {
		t.Errorf("set 0: %v", o)
	}
	ctl(t, "add", "SKU-1", "--guest", "session-abc")
	if o := ctl(t, "remove", "SKU-1", "--guest", "session-abc", "--json").object(t); at(t, o, "item_count") != 0.0 {
		t.Errorf("remove: %v", o)
	}
	ctl(t, "add", "SKU-1", "5", "--user", "user-123")
	if o := ctl(t, "clear", "--user", "user-123", "--json").object(t); at(t, o, "item_count") != 0.0 || len(f.regions["eu-west"]["user-123"]) != 0 {
		t.Errorf("clear: %v", o)
	}
	if o := ctl(t, "explain", "--user", "user-123", "--json").object(t); at(t, o, "lines", 0, "fields", 0, "writes", 0, "wins") != true {
		t.Errorf("explain: %v", o)
	}
	if r := ctl(t, "explain", "--user", "user-123"); !strings.Contains(r.stdout, "us-east.1:4") || !strings.Contains(r.stdout, "the largest") {
		t.Errorf("explain for people: %s", r.stdout)
	}
}

func TestErrorsShowCodeAndMessage(t *testing.T) {
	_, addr := newFake(t)
	r := ctl(t, "add", "NOPE", "--user", "u", "--addr", addr, "--json")
	if o := r.object(t); r.code != exitFailed || at(t, o, "error", "code") != "UNKNOWN_SKU" || at(t, o, "error", "message") != `SKU "NOPE" is unknown` {
		t.Errorf("%d %s", r.code, r.stdout)
	}
	if r := ctl(t, "set", "SKU-9", "2", "--user", "u", "--addr", addr); r.code != exitFailed || r.stdout != "" ||
		!strings.Contains(r.stderr, `LINE_NOT_FOUND: the cart has no line "SKU-9"`) {
		t.Errorf("%+v", r)
	}
}

func TestMutationsAreSentAgain(t *testing.T) {
	f, addr := newFake(t)
	f.busy = 3
	r := ctl(t, "add", "SKU-1", "--user", "u", "--addr", addr, "--json")
	if r.code != exitGood || f.adds != 1 || strings.Count(r.stderr, "NO_QUORUM") != 3 {
		t.Errorf("exit %d, %d adds, %q", r.code, f.adds, r.stderr)
	}
	r.object(t)
}

func TestFaultCommands(t *testing.T) {
	f, addr := newFake(t)
	for args, want := range map[string]string{
		"link cut us-east eu-west":          "ACTION_CUT us-east eu-west 0",
		"link heal us-east eu-west":         "ACTION_HEAL us-east eu-west 0",
		"link delay us-east ap-south 1.5s":  "ACTION_DELAY us-east ap-south 1500",
		"node kill us-east/2":               "ACTION_KILL us-east/2",
		"node start us-east/2":              "ACTION_START us-east/2",
		"region kill eu-west":               "ACTION_KILL eu-west",
		"region start eu-west":              "ACTION_START eu-west",
		"link delay us-east ap-south 250ms": "ACTION_DELAY us-east ap-south 250",
	} {
		f.log = nil
		r := ctl(t, append(strings.Fields(args), "--json", "--addr", addr)...)
		if r.code != exitGood || !slices.Equal(f.log, []string{want}) {
			t.Errorf("%s: exit %d, %s, log %q; want %q", args, r.code, r.stderr, f.log, want)
		}
		if done, _ := at(t, r.object(t), "done").(string); done == "" {
			t.Errorf("%s: %s", args, r.stdout)
		}
	}
	if r := ctl(t, "link", "cut", "us-east", "mars", "--addr", addr); r.code != exitFailed || !strings.Contains(r.stderr, "NOT_FOUND") {
		t.Errorf("unknown region: %+v", r)
	}
	f.drills = false
	if r := ctl(t, "node", "kill", "us-east/1", "--addr", addr); r.code != exitFailed || !strings.Contains(r.stderr, "--drills") {
		t.Errorf("without drills: %+v", r)
	}
}

func TestRegions(t *testing.T) {
	_, addr := newFake(t)
	o := ctl(t, "regions", "--json", "--addr", addr).object(t)
	if at(t, o, "regions", 0, "region") != "us-east" || at(t, o, "links", 0, "cut") != true || at(t, o, "lag_ms", "us-east>ap-south") != 21.0 ||
		at(t, o, "regions", 1, "shards", 0, "peers", 0, "proven_equal_at") != "2023-11-14T22:13:20.000Z" {
		t.Errorf("%v", o)
	}
	people := ctl(t, "regions", "--addr", addr).stdout
	for _, want := range []string{"us-east/2 (down)", "CUT", "2 of 2 led", "21ms"} {
		if !strings.Contains(people, want) {
			t.Errorf("%q is missing:\n%s", want, people)
		}
	}
}

func TestVerify(t *testing.T) {
	f, addr := newFake(t)
	for i := range 40 {
		ctl(t, "add", "SKU-1", "--user", fmt.Sprintf("user-%d", i), "--addr", addr)
	}
	r := ctl(t, "verify", "--json", "--addr", addr)
	o := r.object(t)
	if r.code != exitGood || at(t, o, "carts") != 40.0 || at(t, o, "diverged") != 0.0 || at(t, o, "lag_ms", "us-east>eu-west") != 11.0 {
		t.Errorf("exit %d, %s", r.code, r.stdout)
	}
	f.mu.Lock()
	f.regions["eu-west"]["user-7"]["SKU-1"] = 9 // planted
	delete(f.regions["ap-south"], "user-9")     // planted
	f.mu.Unlock()
	r = ctl(t, "verify", "--json", "--addr", addr, "--wait", "100ms")
	o = r.object(t)
	if r.code != exitFailed || at(t, o, "carts") != 40.0 || at(t, o, "diverged") != 2.0 || len(at(t, o, "diverged_carts").([]any)) != 2 {
		t.Errorf("planted: exit %d, %s", r.code, r.stdout)
	}
	if r := ctl(t, "verify", "--addr", addr, "--wait", "1ms"); !strings.Contains(r.stdout, "cart:user-9") || !strings.Contains(r.stdout, "none") {
		t.Errorf("for people: %s", r.stdout)
	}
}

// Watching goes on until the user has seen enough, and remembers what it saw.
func TestVerifyWatch(t *testing.T) {
	f, addr := newFake(t)
	ctl(t, "add", "SKU-1", "--user", "u", "--addr", addr)
	watch := func(args ...string) result {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		var out, errs bytes.Buffer
		lines := &out
		if slices.Contains(args, "--json") {
			lines = &errs
		}
		done := make(chan int)
		seen := &countingWriter{to: lines, after: 3, do: stop}
		stdout, stderr := io.Writer(seen), io.Writer(&errs)
		if lines == &errs {
			stdout, stderr = &out, seen
		}
		go func() {
			done <- run(ctx, append([]string{"verify", "--watch", "--every", "1ms", "--wait", "1ms", "--addr", addr}, args...), stdout, stderr)
		}()
		code := <-done
		return result{code: code, stdout: out.String(), stderr: errs.String()}
	}
	r := watch("--json")
	if o := r.object(t); r.code != exitGood || at(t, o, "rounds").(float64) < 3 || at(t, o, "diverged_rounds") != 0.0 || strings.Count(r.stderr, `"diverged":0`) < 3 {
		t.Errorf("exit %d, %s\n%s", r.code, r.stdout, r.stderr)
	}
	f.mu.Lock()
	f.regions["eu-west"]["u"]["SKU-1"] = 9 // planted
	f.mu.Unlock()
	if r := watch(); r.code != exitFailed || !strings.Contains(r.stdout, "1 DIVERGED, first cart:u") {
		t.Errorf("planted: exit %d, %s", r.code, r.stdout)
	}
	if r := ctl(t, "verify", "--watch", "--every", "0s", "--addr", addr); r.code != exitUsage {
		t.Errorf("no pause: exit %d, %s", r.code, r.stderr)
	}
}

// countingWriter calls do at the n-th write.
type countingWriter struct {
	to    io.Writer
	after int
	do    func()
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.after--; w.after == 0 {
		w.do()
	}
	return w.to.Write(p)
}

func TestRegionRepair(t *testing.T) {
	_, addr := newFake(t)
	if r := ctl(t, "region", "repair", "us-east", "eu-west", "--json", "--addr", addr); r.code != exitGood || at(t, r.object(t), "peer") != "eu-west" {
		t.Errorf("exit %d, %s %s", r.code, r.stdout, r.stderr)
	}
	if r := ctl(t, "region", "repair", "us-east", "mars", "--addr", addr); r.code != exitFailed || !strings.Contains(r.stderr, "mars") {
		t.Errorf("unknown: exit %d, %s", r.code, r.stderr)
	}
}

// replayFields are those the contract names.
var replayFields = []string{"edits", "acked", "rejected", "lost", "diverged", "conflicts", "edits_per_s", "p50_ms", "p99_ms", "converged_in_ms"}

func TestReplay(t *testing.T) {
	f, addr := newFake(t)
	f.busy, f.stale = 20, 20
	args := []string{"replay", "--json", "--addr", addr, "--limit", "1500", "--clients", "8", "--cut", "us-east,eu-west:33%-66%", "--kill", "ap-south/2:40%-60%"}
	r := ctl(t, args...)
	o := r.object(t)
	for _, field := range replayFields {
		if _, ok := at(t, o, field).(float64); !ok {
			t.Errorf("%s is %v, want a number", field, o[field])
		}
	}
	if r.code != exitGood || at(t, o, "edits") != 1500.0 || at(t, o, "lost") != 0.0 || at(t, o, "diverged") != 0.0 || at(t, o, "unacked") != 0.0 ||
		at(t, o, "retries").(float64) < 20 || at(t, o, "acked").(float64)+at(t, o, "rejected").(float64) != 1500 {
		t.Errorf("exit %d, %s\n%s", r.code, r.stdout, r.stderr)
	}
	byCode := 0.0
	for _, n := range at(t, o, "rejected_by_code").(map[string]any) {
		byCode += n.(float64)
	}
	if byCode != at(t, o, "rejected") {
		t.Errorf("%v rejected by code, %v in all", byCode, o["rejected"])
	}
	want := []string{"ACTION_CUT eu-west us-east 0", "ACTION_KILL ap-south/2", "ACTION_START ap-south/2", "ACTION_HEAL eu-west us-east 0"}
	if !slices.Equal(f.log, want) {
		t.Errorf("faults %q, want %q", f.log, want)
	}
	if !strings.Contains(r.stderr, "us-east: Brazil, Canada, USA") {
		t.Errorf("the map is not printed: %s", r.stderr)
	}
	// A second run meets none of the first one's carts.
	if again := ctl(t, args...); again.code != exitGood {
		t.Errorf("again: exit %d, %s\n%s", again.code, again.stdout, again.stderr)
	}
	if people := ctl(t, "replay", "--addr", addr, "--limit", "50"); people.code != exitGood || !strings.Contains(people.stdout, "proved: all regions equal") {
		t.Errorf("for people: %+v", people)
	}
}

// forgetful is a handler that forgets a line of one acknowledged add in every
// region, when it has answered the nth.
type forgetful struct {
	http.Handler

	after func()
}

func (h forgetful) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.Handler.ServeHTTP(w, r)
	h.after()
}

func TestReplayFindsWhatTheServerLost(t *testing.T) {
	for name, plant := range map[string]func(f *fake, user, sku string){
		"lost": func(f *fake, user, sku string) {
			for _, region := range f.names {
				delete(f.regions[region][user], sku)
			}
		},
		"diverged": func(f *fake, user, sku string) { f.regions["ap-south"][user][sku]++ },
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := newFake(t)
			planted := false
			server := httptest.NewUnstartedServer(nil)
			mux := http.NewServeMux()
			mux.Handle("/", forwardTo(t, f.address["eu-west"]))
			server.Config.Handler = forgetful{mux, func() {
				f.mu.Lock()
				defer f.mu.Unlock()
				if planted || f.adds < 50 {
					return
				}
				for user, lines := range f.regions["eu-west"] {
					for sku := range lines {
						plant(f, user, sku)
						planted = true
						return
					}
				}
			}}
			server.Start()
			t.Cleanup(server.Close)
			f.address["eu-west"] = server.URL
			file := filepath.Join(t.TempDir(), "orders.csv")
			var text strings.Builder
			text.WriteString("InvoiceNo,StockCode,Quantity,UnitPrice,Country\n")
			for i := range 30 {
				for j := range 4 { // no SKU twice: what was lost does not come back
					fmt.Fprintf(&text, "%d,SKU-%d,5,1.00,France\n", i, j)
				}
			}
			if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			r := ctl(t, "replay", "--json", "--addr", f.address["us-east"], "--data", file, "--clients", "1", "--converge-timeout", "100ms")
			o := r.object(t)
			if r.code != exitFailed || at(t, o, name) != 1.0 || len(at(t, o, "findings").([]any)) == 0 {
				t.Errorf("planted %s: exit %d, %s", name, r.code, r.stdout)
			}
		})
	}
}

// forwardTo is a handler that passes requests on.
func forwardTo(t *testing.T, addr string) http.Handler {
	t.Helper()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out, err := http.NewRequestWithContext(r.Context(), r.Method, addr+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		out.Header = r.Header
		resp, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		var body bytes.Buffer
		if _, err := body.ReadFrom(resp.Body); err != nil {
			t.Error(err)
		}
		_, _ = w.Write(body.Bytes())
	})
}

func TestReplayInterrupted(t *testing.T) {
	f, addr := newFake(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f.busy = math.MaxInt // no add is ever taken; the cut is in force from the first
	done := make(chan result)
	go func() {
		done <- ctlCtx(ctx, "replay", "--json", "--addr", addr, "--limit", "100", "--clients", "4", "--cut", "us-east,eu-west:0%-50%")
	}()
	<-f.faulted
	cancel()
	r := <-done
	if r.code != exitFailed || !strings.Contains(r.stderr, "interrupted") {
		t.Errorf("%+v", r)
	}
	if f.cut[[2]string{"eu-west", "us-east"}] || len(f.log) != 2 {
		t.Errorf("the link is still cut: %q", f.log)
	}
}

func TestReplayNeedsDrillsForCuts(t *testing.T) {
	f, addr := newFake(t)
	f.drills = false
	r := ctl(t, "replay", "--json", "--addr", addr, "--limit", "100", "--cut", "us-east,eu-west:10%-50%")
	if r.code != exitFailed || at(t, r.object(t), "error", "code") != "FORBIDDEN" {
		t.Errorf("%+v", r)
	}
}

func TestBench(t *testing.T) {
	_, addr := newFake(t)
	for _, name := range []string{"add", "get", "mixed"} {
		for _, codec := range []string{"binary", "json"} {
			r := ctl(t, "bench", name, "--json", "--addr", addr, "--clients", "3", "--carts", "20", "--duration", "50ms", "--codec", codec)
			o := r.object(t)
			if r.code != exitGood || at(t, o, "calls").(float64) < 1 || at(t, o, "errors") != 0.0 || at(t, o, "p99_ms").(float64) < at(t, o, "p50_ms").(float64) {
				t.Errorf("%s %s: exit %d, %s %s", name, codec, r.code, r.stdout, r.stderr)
			}
		}
	}
}

func TestToken(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "key.pem")
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	der, err = x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := rpc.NewTokenAuthenticator(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]rpc.Principal{
		"--user user-123":                      {Kind: rpc.User, ID: "user-123"},
		"--guest session-abc":                  {Kind: rpc.Guest, ID: "session-abc"},
		"--scopes price,admin --ttl 5m":        {Kind: rpc.Service, ID: "cartctl", Scopes: []string{"price", "admin"}},
		"--user u --scopes price":              {Kind: rpc.User, ID: "u", Scopes: []string{"price"}},
		"--scopes admin --addr http://no.such": {Kind: rpc.Service, ID: "cartctl", Scopes: []string{"admin"}},
	} {
		r := ctl(t, append([]string{"token", "--json", "--key", file}, strings.Fields(args)...)...)
		token, _ := at(t, r.object(t), "token").(string)
		got, err := auth.Authenticate(t.Context(), http.Header{"Authorization": {"Bearer " + token}})
		if err != nil || got.Kind != want.Kind || got.ID != want.ID || !slices.Equal(got.Scopes, want.Scopes) {
			t.Errorf("%s: %+v, %v; want %+v", args, got, err, want)
		}
	}
	plain := ctl(t, "token", "--key", file, "--user", "u")
	if strings.Count(strings.TrimSpace(plain.stdout), ".") != 2 || plain.code != exitGood {
		t.Errorf("for people: %+v", plain)
	}
	// The token, or the file that holds it, is what --token takes.
	saved := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(saved, []byte(plain.stdout), 0o600); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(plain.stdout)
	for _, given := range []string{token, saved} {
		if got, err := readToken(given); err != nil || got != token {
			t.Errorf("readToken(%q) = %q, %v", given, got, err)
		}
	}
}

func TestConfigFile(t *testing.T) {
	_, addr := newFake(t)
	file := filepath.Join(t.TempDir(), "cartctl.yaml")
	if err := os.WriteFile(file, []byte("addr: "+addr+"\njson: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := ctl(t, "add", "SKU-1", "--user", "u", "--config", file)
	if o := r.object(t); r.code != exitGood || at(t, o, "item_count") != 1.0 {
		t.Errorf("%+v", r)
	}
}

// TestAmount checks that every amount reads back as what it was made of.
func TestAmount(t *testing.T) {
	for currency, want := range map[string]string{"USD": "29.99", "JPY": "2999", "KWD": "2.999", "CLF": "0.2999"} {
		if got := amount(&cartv1.Money{Currency: currency, MinorUnits: 2999}); got != want {
			t.Errorf("2999 %s is %s, want %s", currency, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		minor := rapid.Int64().Draw(t, "minor")
		text := amount(&cartv1.Money{Currency: "GBP", MinorUnits: minor})
		if whole, cents, ok := strings.Cut(text, "."); !ok || len(cents) != 2 || strings.TrimPrefix(whole, "-") == "" {
			t.Fatalf("%d is %q", minor, text)
		}
		digits := strings.TrimLeft(strings.NewReplacer(".", "", "-", "").Replace(text), "0")
		if want := strings.TrimPrefix(fmt.Sprint(minor), "-"); digits != strings.TrimLeft(want, "0") || (minor < 0) != (text[0] == '-') {
			t.Fatalf("%d is %q", minor, text)
		}
	})
}

// TestShownCart checks what makes two carts different, and what does not.
func TestShownCart(t *testing.T) {
	base := &cartv1.Cart{
		Items: []*cartv1.Item{
			{SkuId: "A", SellerId: "retail", Quantity: 2, PriceAtAdd: &cartv1.Money{Currency: "GBP", MinorUnits: 255}, AddedAtMs: 5},
			{SkuId: "B", SellerId: "retail", Quantity: 1, Options: map[string]string{"size": "L"}},
		},
		Conflicts: []*cartv1.Conflict{{SkuId: "A", Field: "quantity", Value: "2", Values: []string{"1", "2"}}},
	}
	for name, c := range map[string]struct {
		change func(*cartv1.Cart)
		same   bool
	}{
		"nothing":                {func(*cartv1.Cart) {}, true},
		"the catalogue's answer": {func(c *cartv1.Cart) { c.Items[0].CurrentPrice = &cartv1.Money{MinorUnits: 1}; c.Items[0].Name = "x" }, true},
		"order of values":        {func(c *cartv1.Cart) { c.Conflicts[0].Values = []string{"2", "1"} }, true},
		"quantity":               {func(c *cartv1.Cart) { c.Items[0].Quantity++ }, false},
		"price":                  {func(c *cartv1.Cart) { c.Items[0].PriceAtAdd.MinorUnits++ }, false},
		"time":                   {func(c *cartv1.Cart) { c.Items[0].AddedAtMs++ }, false},
		"options":                {func(c *cartv1.Cart) { c.Items[1].Options["size"] = "M" }, false},
		"order of lines":         {func(c *cartv1.Cart) { slices.Reverse(c.Items) }, false},
		"saved":                  {func(c *cartv1.Cart) { c.SavedItems, c.Items = c.Items[1:], c.Items[:1] }, false},
		"conflicts":              {func(c *cartv1.Cart) { c.Conflicts = nil }, false},
		"a line missing":         {func(c *cartv1.Cart) { c.Items = c.Items[:1] }, false},
	} {
		other := proto.Clone(base).(*cartv1.Cart)
		c.change(other)
		if same := shownCart(base).Fingerprint == shownCart(other).Fingerprint; same != c.same {
			t.Errorf("%s: same is %v", name, same)
		}
	}
	if o := view(base.ProtoReflect()); fmt.Sprint(o["conflicts"]) != "[map[field:quantity seller_id: sku_id:A value:2 values:[1 2]]]" || o["subtotal"] != nil {
		t.Errorf("view is %v", o)
	}
	if got := shownCart(base); got.Conflicts != 1 || len(got.Lines) != 2 || got.Lines[0].Quantity != 2 {
		t.Errorf("%+v", got)
	}
}
