package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// localRegions are the regions of a cluster of the drill's own.
var localRegions = []string{"us-east", "eu-west", "ap-south"}

const (
	localNodes  = 3
	localShards = 2
	// nodeMemory is what the collector of each process keeps within: each would
	// else take the machine for its own.
	nodeMemory = "GOMEMLIMIT=400MiB"
)

// local is three regions of three `cartd node` processes and a gateway each, on
// loopback, whose links to each other go through the drill's proxies.
type local struct {
	dir   string
	cartd string // what is started from now on
	dial  func(base string) Admin
	links *links
	port  int                 // the first of portsUsed
	more  map[string][]string // flags of all processes of a region

	mu      sync.Mutex // guards what follows
	all     map[string]*process
	paused  map[string]bool
	cleanup []func() // of what drills add, run by close in reverse
	mends   []func(ctx context.Context) error
	clocks
}

// process is one that the drill started.
type process struct {
	name string
	args []string
	log  string
	cmd  *exec.Cmd     // nil until it was started
	done chan struct{} // closed when it has ended
	// wanted is set before the drill ends it.
	wanted bool
}

// Ports, from the first: APIs, links, peers, gateways, Redis.
const portsUsed = 36

// newLocal makes the place for a cluster; nothing runs yet.
func newLocal(cartd string, dial func(base string) Admin) (*local, error) {
	dir, err := os.MkdirTemp("", "samecart-drill-")
	if err != nil {
		return nil, err
	}
	return &local{
		dir: dir, cartd: cartd, dial: dial, links: newLinks(), port: freeRow(portsUsed),
		more: make(map[string][]string), all: make(map[string]*process), paused: make(map[string]bool),
	}, nil
}

// freeRow finds n free ports in a row, below the range that clients draw from.
// Another process may take one before it is used.
func freeRow(n int) int {
	for {
		base := 20000 + rand.IntN(12000)
		var open []net.Listener
		for i := range n {
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", base+i))
			if err != nil {
				break
			}
			open = append(open, ln)
		}
		for _, ln := range open {
			_ = ln.Close() // taken for a look only
		}
		if len(open) == n {
			return base
		}
	}
}

func (l *local) address(i int) string { return fmt.Sprintf("127.0.0.1:%d", l.port+i) }

func (l *local) api(region, node int) string  { return l.address(3*region + node) }
func (l *local) link(region, node int) string { return l.address(9 + 3*region + node) }
func (l *local) peer(region, node int) string { return l.address(18 + 3*region + node) }
func (l *local) gate(region int) string       { return l.address(27 + region) }
func (l *local) redis(region int) string      { return l.address(30 + region) }

func (l *local) regions() []string         { return localRegions }
func (l *local) base(region string) string { return "http://" + l.gate(indexOf(localRegions, region)) }
func (l *local) admin(region string) Admin { return l.dial(l.base(region)) }

func (l *local) nodes(region string) (out []string) {
	for n := range localNodes {
		out = append(out, fmt.Sprintf("%s/%d", region, n+1))
	}
	return out
}

func gateway(region string) string { return region + "/gateway" }

// data is a node's directory.
func (l *local) data(node string) string { return filepath.Join(l.dir, node) }

// numbers returns a node's region and place in it, from 0.
func numbers(node string) (region, n int) {
	name, number, _ := strings.Cut(node, "/")
	return indexOf(localRegions, name), int(number[0] - '1')
}

// prepare makes the proxies and the command lines.
func (l *local) prepare() error {
	var addresses []string
	for r, region := range localRegions {
		addresses = append(addresses, region+"=http://"+l.gate(r))
	}
	for r, region := range localRegions {
		var nodes, peers []string
		for n := range localNodes {
			nodes = append(nodes, fmt.Sprintf("%s/%d=%s", region, n+1, l.link(r, n)))
		}
		for o, other := range localRegions {
			if o == r {
				continue
			}
			var urls []string
			for n := range localNodes {
				door, err := l.links.open(way{region, other}, l.peer(o, n))
				if err != nil {
					return err
				}
				urls = append(urls, "http://"+door)
			}
			peers = append(peers, other+"="+strings.Join(urls, ","))
		}
		common := append([]string{
			"--region", region, "--nodes", strings.Join(nodes, ";"), "--addresses", strings.Join(addresses, ";"),
			"--shards", fmt.Sprint(localShards), "--trust-headers",
		}, l.more[region]...)
		for n, node := range l.nodes(region) {
			l.define(node, append([]string{
				"--log", "warn", "node", "--node", fmt.Sprint(n + 1), "--peers", strings.Join(peers, ";"), "--drills",
				"--memtable", "16777216", "--cart-cache", "33554432",
				"--listen", l.api(r, n), "--link-listen", l.link(r, n), "--peer-listen", l.peer(r, n), "--data", l.data(node),
			}, common...))
		}
		l.define(gateway(region), append([]string{"--log", "warn", "gateway", "--listen", l.gate(r)}, common...))
	}
	return nil
}

// define tells how a process is started.
func (l *local) define(name string, args []string) {
	l.all[name] = &process{name: name, args: args, log: filepath.Join(l.dir, strings.ReplaceAll(name, "/", "-")+".log")}
}

// up starts everything and returns when all regions take edits.
func (l *local) up(ctx context.Context) error {
	if err := l.prepare(); err != nil {
		return err
	}
	for _, name := range l.names() {
		if err := l.launch(name); err != nil {
			return err
		}
	}
	for _, region := range localRegions {
		if err := poll(ctx, time.Minute, func(ctx context.Context) error { return answers200(ctx, l.base(region)+"/readyz") }); err != nil {
			return fmt.Errorf("region %s does not take edits after a minute: %w; %s", region, err, l.fallen())
		}
	}
	return nil
}

// answers200 is nil when a GET does.
func answers200(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 500)) // what there is of it
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s", url, resp.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// names are the processes in the order in which they start.
func (l *local) names() (out []string) {
	for _, region := range localRegions {
		out = append(append(out, l.nodes(region)...), gateway(region))
	}
	return out
}

// starts carries out the starts of processes on one thread that never ends: the
// system kills them when the thread that started them does, so that they go with
// a drill that is killed.
var starts = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go onOwnThread(c)
	return c
})

// launch starts a process that does not run.
func (l *local) launch(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.all[name]
	if p.running() {
		return nil
	}
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the process has its own
	cmd := exec.Command(l.cartd, p.args...)
	cmd.Stderr, cmd.Stdout = out, out
	cmd.Env = append(environment(), nodeMemory)
	cmd.SysProcAttr = ownGroup()
	started := make(chan error)
	starts() <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p.cmd, p.done, p.wanted = cmd, make(chan struct{}), false
	go func() {
		_ = cmd.Wait() // how it ended, its log says
		close(p.done)
	}()
	return nil
}

// environment is this process's, without what cartd would take for flags.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "SAMECART_") || strings.HasPrefix(v, "GOMEMLIMIT=")
	})
}

func (p *process) running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends one to a process that runs.
func (l *local) signal(name string, s syscall.Signal) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.all[name]
	if !p.running() {
		return fmt.Errorf("%s does not run", name)
	}
	switch s {
	case syscall.SIGKILL, syscall.SIGTERM:
		p.wanted = true
		delete(l.paused, name)
	case syscall.SIGSTOP:
		l.paused[name] = true
	case syscall.SIGCONT:
		delete(l.paused, name)
	default:
		panic(fmt.Sprintf("signal %v to %s", s, name))
	}
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %v to %s: %w", s, name, err)
	}
	return nil
}

// end ends a process by a signal and waits until it is gone.
func (l *local) end(ctx context.Context, name string, s syscall.Signal) error {
	if err := l.signal(name, s); err != nil {
		return err
	}
	l.mu.Lock()
	done := l.all[name].done
	l.mu.Unlock()
	select {
	case <-done:
		return nil
	case <-time.After(faultTimeout):
		return fmt.Errorf("%s does not end within %v of signal %v", name, faultTimeout, s)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *local) kill(ctx context.Context, node string) error {
	return l.end(ctx, node, syscall.SIGKILL)
}

// start starts a process; a node's answers are waited for.
func (l *local) start(ctx context.Context, name string) error {
	if err := l.launch(name); err != nil {
		return err
	}
	r, at := indexOf(localRegions, strings.Split(name, "/")[0]), ""
	if strings.HasSuffix(name, "/gateway") {
		at = l.gate(r)
	} else {
		_, n := numbers(name)
		at = l.api(r, n)
	}
	err := poll(ctx, time.Minute, func(ctx context.Context) error { return answers200(ctx, "http://"+at+"/healthz") })
	if err != nil {
		return fmt.Errorf("%s does not answer: %w; it said: %s", name, err, lastWord(l.all[name].log))
	}
	return nil
}

func (l *local) killRegion(ctx context.Context, region string) error {
	// All at once, as when the power goes.
	names := append(l.nodes(region), gateway(region))
	var errs []error
	for _, name := range names {
		errs = append(errs, l.signal(name, syscall.SIGKILL))
	}
	for _, name := range names {
		if l.isRunning(name) {
			errs = append(errs, l.kill(ctx, name))
		}
	}
	return errors.Join(errs...)
}

func (l *local) isRunning(name string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[name].running()
}

func (l *local) startRegion(ctx context.Context, region string) error {
	names := append(l.nodes(region), gateway(region))
	var errs []error
	for _, name := range names {
		errs = append(errs, l.launch(name))
	}
	for _, name := range names {
		errs = append(errs, l.start(ctx, name))
	}
	return errors.Join(errs...)
}

// wipe removes the data of a node that does not run.
func (l *local) wipe(node string) error { return os.RemoveAll(l.data(node)) }

func (l *local) both(a, b string, t trouble) error {
	l.links.set(way{a, b}, t)
	l.links.set(way{b, a}, t)
	return nil
}

// cut is silent: what is worse than a reset for whoever waits.
func (l *local) cut(_ context.Context, a, b string) error { return l.both(a, b, trouble{Mute: true}) }

func (l *local) slow(_ context.Context, a, b string, delay time.Duration, rate int) error {
	return l.both(a, b, trouble{Delay: delay, Rate: rate})
}

func (l *local) mend(_ context.Context, a, b string) error { return l.both(a, b, trouble{}) }

func (l *local) setClock(ctx context.Context, node string, ahead time.Duration) error {
	region, _, _ := strings.Cut(node, "/")
	return l.set(ctx, l.admin(region), node, ahead)
}

// onHeal has something done by heal as well; it must change nothing when it is
// done already.
func (l *local) onHeal(mend func(ctx context.Context) error) { l.mends = append(l.mends, mend) }

func (l *local) heal(ctx context.Context) error {
	l.links.heal()
	var errs []error
	l.mu.Lock()
	var paused []string
	for name := range l.paused {
		paused = append(paused, name)
	}
	l.mu.Unlock()
	for _, name := range paused {
		errs = append(errs, l.signal(name, syscall.SIGCONT))
	}
	errs = append(errs, l.right(ctx, l.setClock))
	for _, mend := range l.mends {
		errs = append(errs, mend(ctx))
	}
	var down []string
	l.mu.Lock()
	for _, name := range l.names() {
		if p := l.all[name]; !p.running() && p.wanted {
			down = append(down, name)
		}
	}
	l.mu.Unlock()
	for _, name := range down {
		errs = append(errs, l.launch(name))
	}
	for _, name := range down {
		errs = append(errs, l.start(ctx, name))
	}
	return errors.Join(errs...)
}

// forgive takes the end of a process for the drill's doing, and starts it
// again; it reports whether it had ended.
func (l *local) forgive(ctx context.Context, name string) (ended bool, err error) {
	l.mu.Lock()
	p := l.all[name]
	ended = !p.running()
	p.wanted = p.wanted || ended
	l.mu.Unlock()
	return ended, l.start(ctx, name)
}

func (l *local) fallen() (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range l.names() {
		if p := l.all[name]; p != nil && p.done != nil && !p.running() && !p.wanted {
			out = append(out, fmt.Sprintf("%s ended by itself; it said: %s", name, lastWord(p.log)))
		}
	}
	return out
}

// lastWord is what a process said when it ended: the last line of its log that
// is a complaint, else the last line, "" when there is none.
func lastWord(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	for _, line := range slices.Backward(lines) {
		for _, begin := range []string{"cartd: ", "panic: ", "fatal error: ", "unexpected fault", "SIGBUS"} {
			if strings.HasPrefix(line, begin) {
				return line
			}
		}
	}
	return lines[len(lines)-1]
}

// close ends all processes and removes the directory.
func (l *local) close() {
	for _, name := range l.names() {
		l.mu.Lock()
		p := l.all[name]
		l.mu.Unlock()
		if p == nil || !p.running() {
			continue
		}
		_ = l.signal(name, syscall.SIGKILL) // it may have ended meanwhile
		<-p.done
	}
	l.links.close()
	for _, undo := range slices.Backward(l.cleanup) {
		undo()
	}
	_ = os.RemoveAll(l.dir) // what is left is in the temporary directory
}
