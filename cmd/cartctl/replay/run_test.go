package replay

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/samecart/samecart/rpc/scan"
)

// world is a fake of all regions: carts as maps, joined by the maximum while a
// link is up. It satisfies Carts and Faults.
type world struct {
	mu      sync.Mutex
	regions []string
	carts   map[string]map[string]map[string]uint64 // region, user, SKU
	cut     map[[2]string]bool
	down    map[string]bool // nodes
	log     []string        // faults, with the edits acknowledged before them
	sent    []Add           // in order
	where   []string        // region of each
	keys    map[string]bool
	answer  func(region string, add Add) error // nil: none
	mangle  func(region, user string, lines map[string]uint64)
	bill    func(region string, lines map[string]uint64) ShownTotal // nil: none
}

func newWorld(regions ...string) *world {
	w := &world{regions: regions, carts: map[string]map[string]map[string]uint64{}, cut: map[[2]string]bool{}, down: map[string]bool{}, keys: map[string]bool{}}
	for _, r := range regions {
		w.carts[r] = map[string]map[string]uint64{}
	}
	return w
}

func (w *world) put(region, user, sku string, quantity uint64) {
	if w.carts[region][user] == nil {
		w.carts[region][user] = map[string]uint64{}
	}
	w.carts[region][user][sku] = max(w.carts[region][user][sku], quantity)
}

func (w *world) Add(_ context.Context, region string, add Add) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent, w.where = append(w.sent, add), append(w.where, region)
	if w.keys[add.Key] {
		return fmt.Errorf("key %s was sent for two edits", add.Key)
	}
	w.keys[add.Key] = true
	if w.answer != nil {
		if err := w.answer(region, add); err != nil {
			return err
		}
	}
	if add.Quantity > 99 {
		return fmt.Errorf("%w: QUANTITY_TOO_LARGE", ErrRefused)
	}
	quantity := w.carts[region][add.User][add.SKU] + uint64(add.Quantity)
	w.put(region, add.User, add.SKU, quantity)
	for _, other := range w.regions {
		if !w.cut[[2]string{min(region, other), max(region, other)}] {
			w.put(other, add.User, add.SKU, quantity)
		}
	}
	return nil
}

func (w *world) Read(_ context.Context, region, user string) (Shown, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	lines := maps.Clone(w.carts[region][user])
	if w.mangle != nil {
		w.mangle(region, user, lines)
	}
	var out Shown
	var text bytes.Buffer
	for _, sku := range slices.Sorted(maps.Keys(lines)) {
		out.Lines = append(out.Lines, ShownLine{sku, lines[sku]})
		fmt.Fprintln(&text, sku, lines[sku])
	}
	out.Fingerprint = sha256.Sum256(text.Bytes())
	if w.bill != nil {
		out.Total = w.bill(region, lines)
	}
	return out, nil
}

func (w *world) fault(ctx context.Context, what string, change func()) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, fmt.Sprintf("%d %s", len(w.sent), what))
	change()
	return nil
}

func (w *world) Cut(ctx context.Context, a, b string) error {
	return w.fault(ctx, "cut "+a+" "+b, func() { w.cut[[2]string{a, b}] = true })
}

func (w *world) Heal(ctx context.Context, a, b string) error {
	return w.fault(ctx, "heal "+a+" "+b, func() {
		delete(w.cut, [2]string{a, b})
		for _, pair := range [][2]string{{a, b}, {b, a}} {
			for user, lines := range w.carts[pair[0]] {
				for sku, quantity := range lines {
					w.put(pair[1], user, sku, quantity)
				}
			}
		}
	})
}

func (w *world) Kill(ctx context.Context, node string) error {
	return w.fault(ctx, "kill "+node, func() { w.down[node] = true })
}

func (w *world) Start(ctx context.Context, node string) error {
	return w.fault(ctx, "start "+node, func() { delete(w.down, node) })
}

// settled is a Settle that finds all equal at once.
func settled(context.Context) (scan.Outcome, error) {
	return scan.Outcome{EqualAt: time.Now()}, nil
}

func config(regions []string) Config {
	return Config{Clients: 8, Regions: regions, RunID: "test", Settle: settled}
}

var three = []string{"us-east", "eu-west", "ap-south"}

// orders writes n invoices of m lines and returns the file's name.
func ordersFile(t testing.TB, n, m int) string {
	t.Helper()
	var text strings.Builder
	text.WriteString(header)
	for i := range n {
		for j := range m {
			fmt.Fprintf(&text, "%d,SKU-%d,d,%d,x,1.25,,United Kingdom\n", 1000+i, j%5, j+1)
		}
	}
	file := filepath.Join(t.TempDir(), "orders.csv")
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestRunProves(t *testing.T) {
	w := newWorld(three...)
	cfg := config(three)
	cfg.Limit = 3000
	cfg.Cuts = []Cut{cut(t, "us-east,eu-west:33%-66%"), cut(t, "ap-south,eu-west:50%-100%")}
	cfg.Kills = []Kill{kill(t, "us-east/2:40%-60%")}
	report, err := Run(t.Context(), cfg, w, w)
	if err != nil {
		t.Fatal(err)
	}
	if !report.Good() || report.Edits != 3000 || report.Acked+report.Rejected != 3000 || report.Rejected == 0 || report.Skipped == 0 {
		t.Errorf("report %+v", report)
	}
	if len(report.Findings) > 0 || report.EditsPerS <= 0 || report.P99 < report.P50 || report.Carts == 0 {
		t.Errorf("report %+v", report)
	}
	if len(w.cut) > 0 || len(w.down) > 0 {
		t.Errorf("still in force: %v %v", w.cut, w.down)
	}
	var names []string
	for _, l := range w.log {
		_, name, _ := strings.Cut(l, " ")
		names = append(names, name)
	}
	want := []string{"cut eu-west us-east", "kill us-east/2", "cut ap-south eu-west", "start us-east/2", "heal eu-west us-east", "heal ap-south eu-west"}
	if !slices.Equal(names, want) {
		t.Errorf("faults %q, want %q", names, want)
	}
}

// TestRunCutsAtTheEdit uses one client, for which the edits before a fault are
// exactly those of the fraction.
func TestRunCutsAtTheEdit(t *testing.T) {
	w := newWorld(three...)
	cfg := config(three)
	cfg.File, cfg.Clients = ordersFile(t, 20, 10), 1
	cfg.Cuts = []Cut{cut(t, "us-east,eu-west:33%-66%")}
	report, err := Run(t.Context(), cfg, w, w)
	if err != nil || !report.Good() {
		t.Fatalf("%+v, %v", report, err)
	}
	if want := []string{"66 cut eu-west us-east", "132 heal eu-west us-east"}; !slices.Equal(w.log, want) {
		t.Errorf("faults %q, want %q", w.log, want)
	}
}

func TestRunOrderAndDevices(t *testing.T) {
	w := newWorld(three...)
	cfg := config(three)
	const lines = 2*chunkLines + 7 // an invoice of several chunks; all but 99 lines are refused
	cfg.File = ordersFile(t, 5, lines)
	if report, err := Run(t.Context(), cfg, w, w); err != nil || report.Carts != 5 || report.Edits != 5*lines {
		t.Fatalf("%+v, %v", report, err)
	}
	position := map[string]int{}
	for i, add := range w.sent {
		at := position[add.User]
		position[add.User]++
		if want := fmt.Sprintf("SKU-%d", at%5); add.SKU != want || add.Quantity != uint32(at+1) || add.Pennies != 125 {
			t.Fatalf("line %d of %s is %+v, want %s: out of order", at, add.User, add, want)
		}
		first := w.where[i] == "eu-west" // the nearest to the UK
		if first != (at%2 == 0) {
			t.Fatalf("line %d of %s went to %s", at, add.User, w.where[i])
		}
	}
	if len(position) != 5 {
		t.Errorf("%d carts, want 5: %v", len(position), position)
	}
}

// TestRunJoinsSplitInvoices has an invoice whose rows stand in two places.
func TestRunJoinsSplitInvoices(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.csv")
	rows := "1,A,d,1,x,1,,USA\n2,B,d,1,x,1,,USA\n1,C,d,1,x,1,,USA\nname with spaces,D,d,1,x,1,,USA\n"
	if err := os.WriteFile(file, []byte(header+rows), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(three...)
	cfg := config(three)
	cfg.File = file
	report, err := Run(t.Context(), cfg, w, w)
	if err != nil || !report.Good() || report.Carts != 3 || report.Edits != 4 {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, add := range w.sent {
		if strings.ContainsAny(add.User+add.Key, " ") {
			t.Errorf("%+v cannot be in a header", add)
		}
	}
}

// TestRunFindsWhatIsPlanted breaks one cart in one region.
func TestRunFindsWhatIsPlanted(t *testing.T) {
	victim := "replay-test-1007"
	for _, c := range []struct {
		name                   string
		regions                []string // where it is broken
		mangle                 func(lines map[string]uint64)
		lost, diverged, excess int
	}{
		{"a line lost in one region", three[1:2], func(l map[string]uint64) { delete(l, "SKU-3") }, 1, 1, 0},
		{"a line lost everywhere", three, func(l map[string]uint64) { delete(l, "SKU-3") }, 1, 0, 0},
		{"a quantity too small everywhere", three, func(l map[string]uint64) { l["SKU-3"] = 1 }, 1, 0, 0},
		{"a retry counted twice", three, func(l map[string]uint64) { l["SKU-3"] *= 2 }, 0, 0, 1},
		{"a line from nowhere in one region", three[:1], func(l map[string]uint64) { l["X"] = 1 }, 0, 1, 1},
		{"the whole cart lost", three, func(l map[string]uint64) { clear(l) }, 5, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(three...)
			w.mangle = func(region, user string, lines map[string]uint64) {
				if user == victim && slices.Contains(c.regions, region) {
					c.mangle(lines)
				}
			}
			cfg := config(three)
			cfg.File = ordersFile(t, 20, 5)
			report, err := Run(t.Context(), cfg, w, w)
			if err != nil || report.Good() || report.Lost != c.lost || report.Diverged != c.diverged || report.Excess != c.excess {
				t.Fatalf("%+v, %v; want lost %d, diverged %d, excess %d", report, err, c.lost, c.diverged, c.excess)
			}
			if len(report.Findings) == 0 || !strings.Contains(strings.Join(report.Findings, "\n"), victim) {
				t.Errorf("findings %q do not name %s", report.Findings, victim)
			}
		})
	}
}

func TestRunCountsRegionsThatStayDifferent(t *testing.T) {
	w := newWorld(three...)
	cfg := config(three)
	cfg.File = ordersFile(t, 3, 3)
	cfg.Settle = func(context.Context) (scan.Outcome, error) {
		return scan.Outcome{Diverged: 2, First: []scan.Difference{{Slot: 7, ID: "cart:x", Digests: [][]byte{{1}, nil, {1}}}}}, nil
	}
	report, err := Run(t.Context(), cfg, w, w)
	if err != nil || report.Good() || report.Diverged != 2 || report.Converged || !strings.Contains(report.Findings[0], "cart:x") {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestRunCountsUnacked(t *testing.T) {
	w := newWorld(three...)
	w.answer = func(_ string, add Add) error {
		if add.SKU == "SKU-1" && strings.HasSuffix(add.User, "1000") {
			return fmt.Errorf("%w: timeout", ErrUnacked)
		}
		return nil
	}
	cfg := config(three)
	cfg.File = ordersFile(t, 3, 5)
	report, err := Run(t.Context(), cfg, w, w)
	if err != nil || report.Good() || report.Unacked != 1 || report.Acked != 14 || report.Lost != 0 || report.Stopped {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestRunStopsWhenNothingIsAcknowledged does not wait for every edit of a
// cluster that answers none.
func TestRunStopsWhenNothingIsAcknowledged(t *testing.T) {
	w := newWorld(three...)
	w.answer = func(string, Add) error { return ErrUnacked }
	cfg := config(three)
	cfg.File = ordersFile(t, 100, 100)
	report, err := Run(t.Context(), cfg, w, w)
	if err != nil || report.Good() || !report.Stopped || report.Unacked > 3*cfg.Clients || report.Unacked < cfg.Clients {
		t.Errorf("%+v, %v", report, err)
	}
}

func TestRunEndsWithAnErrorThatConcernsAll(t *testing.T) {
	w := newWorld(three...)
	denied := errors.New("permission denied")
	w.answer = func(string, Add) error { return denied }
	cfg := config(three)
	cfg.File = ordersFile(t, 100, 100)
	if _, err := Run(t.Context(), cfg, w, w); !errors.Is(err, denied) {
		t.Errorf("err = %v, want the server's", err)
	}
}

// TestRunEndsFaultsOnInterrupt interrupts while a link is cut and a node down.
func TestRunEndsFaultsOnInterrupt(t *testing.T) {
	w := newWorld(three...)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg := config(three)
	cfg.File = ordersFile(t, 50, 20)
	cfg.Cuts = []Cut{cut(t, "us-east,eu-west:10%-90%")}
	cfg.Kills = []Kill{kill(t, "us-east/1:10%-90%")}
	w.answer = func(string, Add) error {
		if len(w.sent) == 500 {
			cancel()
		}
		return nil
	}
	if _, err := Run(ctx, cfg, w, w); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want canceled", err)
	}
	if len(w.cut) > 0 || len(w.down) > 0 || len(w.log) != 4 {
		t.Errorf("still in force: %v %v; faults %q", w.cut, w.down, w.log)
	}
}

func TestRunRate(t *testing.T) {
	w := newWorld(three...)
	cfg := config(three)
	cfg.File, cfg.Rate = ordersFile(t, 10, 5), 500
	begun := time.Now()
	report, err := Run(t.Context(), cfg, w, w)
	// The last of 50 edits is due 98 ms after the start.
	if took := time.Since(begun); err != nil || took < 98*time.Millisecond || !report.Good() {
		t.Errorf("%+v, %v in %v", report, err, took)
	}
}

func TestRunRefusesBadInput(t *testing.T) {
	w := newWorld(three...)
	cfg := config(three)
	cfg.Cuts = []Cut{cut(t, "us-east,mars:1%-2%")}
	if _, err := Run(t.Context(), cfg, w, w); err == nil {
		t.Error("a cut of an unknown region was taken")
	}
	cfg = config(three)
	cfg.File = ordersFile(t, 2, 2)
	text, err := os.ReadFile(cfg.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.File, append(text, "9,A,d,none,x,1,,USA\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	var data *DataError
	if _, err := Run(t.Context(), cfg, w, w); !errors.As(err, &data) || data.Row != 6 || len(w.sent) != 0 {
		t.Errorf("err = %v after %d edits, want line 6 before any", err, len(w.sent))
	}
}
