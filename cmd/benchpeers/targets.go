package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/samecart/samecart/cmd/cartctl/api"
	"github.com/samecart/samecart/cmd/cartctl/load"
)

// target is something that runs and can be called.
type target struct {
	name string
	ops  []string
	// calls returns one call a client; carts that are read are filled.
	calls     func(ctx context.Context, op string, clients int) ([]load.Call, error)
	processes []*exec.Cmd
}

func (t *target) stop() {
	for _, p := range t.processes {
		_ = p.Process.Signal(syscall.SIGTERM) // one that has ended is as good
	}
	for _, p := range t.processes {
		late := time.AfterFunc(10*time.Second, func() { _ = p.Process.Kill() })
		_ = p.Wait() // what it stored goes with the directory
		late.Stop()
	}
}

// processorTime is what a target's processes, and this one, have taken so far.
func (t *target) processorTime() (servers, client time.Duration, err error) {
	for _, p := range t.processes {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Process.Pid))
		if err != nil {
			return 0, 0, err
		}
		// After the name, which is in brackets: utime and stime are the 14th and
		// the 15th field of all, in ticks of 10 ms (proc(5)).
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		for _, f := range fields[11:13] {
			ticks, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return 0, 0, fmt.Errorf("processor time of %s: %w", p.Path, err)
			}
			servers += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, 0, err
	}
	return servers, time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// spawn starts a process whose output goes to dir/name.log.
func (t *target) spawn(dir, name, path string, args ...string) error {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Dir = log, log, dir
	// Ctrl-C is for this process, which ends the others itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w; it must be on the PATH", err)
	}
	t.processes = append(t.processes, cmd)
	return nil
}

// freePorts finds ports that nothing listens on.
func freePorts(n int) ([]string, error) {
	var out []string
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = ln.Close() }() // taken for a look only
		out = append(out, ln.Addr().String())
	}
	return out, nil
}

// await polls until ready says nil.
func await(ctx context.Context, ready func(context.Context) error) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := ready(ctx)
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not ready after 30 s: %w", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// start starts a target in a directory of its own.
func (c *runCommand) start(ctx context.Context, name, dir string) (t *target, err error) {
	dir = filepath.Join(dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	t = &target{name: name}
	start := map[string]func(context.Context, *target, string) error{
		"empty": c.startEmpty, "redis": c.startRedis, "etcd": c.startEtcd, "samecart": c.startSamecart,
	}[name]
	if err := start(ctx, t, dir); err != nil {
		t.stop()
		return nil, errors.Join(err, lastWords(dir))
	}
	return t, nil
}

// lastWords is the end of what the processes of a directory printed.
func lastWords(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, l := range logs {
		b, readErr := os.ReadFile(l)
		if readErr == nil && len(b) > 0 {
			err = errors.Join(err, fmt.Errorf("%s: %s", filepath.Base(l), b[max(0, len(b)-500):]))
		}
	}
	return err
}

// carts makes a target one of the cart service, at one or more addresses that
// clients are spread over.
func (c *runCommand) carts(t *target, addrs ...string) {
	t.ops = []string{"add", "get"}
	filled := make(map[int]bool)
	carts := load.NewCarts(c.Carts, c.Lines)
	t.calls = func(ctx context.Context, op string, clients int) ([]load.Call, error) {
		all := make([]*load.CartClient, clients)
		calls := make([]load.Call, clients)
		hc := api.NewHTTPClient(clients)
		for i := range all {
			all[i] = load.NewCartClient(i, carts, hc, "http://"+addrs[i%len(addrs)], "", false)
			calls[i] = map[string]load.Call{"add": all[i].Add, "get": all[i].Read}[op]
		}
		if len(filled) == 0 {
			if err := load.Fill(ctx, all); err != nil {
				return nil, fmt.Errorf("fill carts: %w", err)
			}
			filled[0] = true
		}
		return calls, nil
	}
}

func awaitCarts(ctx context.Context, addr string) error {
	client := load.NewCartClient(0, load.NewCarts(1, 1), api.NewHTTPClient(1), "http://"+addr, "", false)
	return await(ctx, client.Read)
}

func (c *runCommand) serve(ctx context.Context, t *target, dir string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	addr, err := freePorts(1)
	if err != nil {
		return err
	}
	if err := t.spawn(dir, "handler", self, append([]string{"serve", "--listen", addr[0]}, args...)...); err != nil {
		return err
	}
	c.carts(t, addr[0])
	return awaitCarts(ctx, addr[0])
}

func (c *runCommand) startEmpty(ctx context.Context, t *target, dir string) error {
	return c.serve(ctx, t, dir)
}

func (c *runCommand) startRedis(ctx context.Context, t *target, dir string) error {
	addr, err := freePorts(1)
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(addr[0])
	if err := t.spawn(dir, "redis", "redis-server", "--bind", "127.0.0.1", "--port", port, "--dir", dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "everysec"); err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: addr[0]})
	defer func() { _ = client.Close() }() // only asked whether it is there
	if err := await(ctx, func(ctx context.Context) error { return client.Ping(ctx).Err() }); err != nil {
		return err
	}
	return c.serve(ctx, t, dir, "--redis", addr[0])
}

func (c *runCommand) startSamecart(ctx context.Context, t *target, dir string) error {
	const nodes = 3
	ports, err := freePorts(3 * nodes)
	if err != nil {
		return err
	}
	public, links, peers := ports[:nodes], ports[nodes:2*nodes], ports[2*nodes:]
	var members []string
	for n := range nodes {
		members = append(members, fmt.Sprintf("us-east/%d=%s", n+1, links[n]))
	}
	for n := range nodes {
		var args []string
		if c.Debug > 0 {
			args = append(args, "--debug-listen", fmt.Sprintf("127.0.0.1:%d", c.Debug+n))
		}
		args = append(args, "node", "--trust-headers", "--region", "us-east", "--node", fmt.Sprint(n+1),
			"--nodes", strings.Join(members, ";"), "--addresses", "us-east=http://"+public[n], "--shards", "1",
			"--listen", public[n], "--link-listen", links[n], "--peer-listen", peers[n], "--data", filepath.Join(dir, fmt.Sprint(n+1)))
		if err := t.spawn(dir, fmt.Sprintf("node-%d", n+1), c.Cartd, args...); err != nil {
			return err
		}
	}
	var leader string
	if err := await(ctx, func(context.Context) error {
		for n := range nodes {
			b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("node-%d.log", n+1)))
			if err != nil {
				return err
			}
			if bytes.Contains(b, []byte("msg=leads")) {
				leader = public[n]
				return nil
			}
		}
		return errors.New("no leader")
	}); err != nil {
		return err
	}
	if c.Spread {
		c.carts(t, public...)
	} else {
		c.carts(t, leader)
	}
	return awaitCarts(ctx, leader)
}

func (c *runCommand) startEtcd(ctx context.Context, t *target, dir string) error {
	const nodes = 3
	ports, err := freePorts(2 * nodes)
	if err != nil {
		return err
	}
	var cluster, public []string
	for n := range nodes {
		public = append(public, "http://"+ports[n])
		cluster = append(cluster, fmt.Sprintf("node%d=http://%s", n, ports[nodes+n]))
	}
	for n := range nodes {
		peer := "http://" + ports[nodes+n]
		if err := t.spawn(dir, fmt.Sprintf("etcd-%d", n), "etcd", "--name", fmt.Sprintf("node%d", n), "--data-dir", filepath.Join(dir, fmt.Sprint(n)),
			"--listen-client-urls", public[n], "--advertise-client-urls", public[n],
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new", "--logger", "zap", "--log-level", "error"); err != nil {
			return err
		}
	}
	var leader string
	if err := await(ctx, func(ctx context.Context) error {
		for _, addr := range public {
			leads, err := newEtcd(addr).leads(ctx)
			if err != nil {
				return err
			}
			if leads {
				leader = addr
				return nil
			}
		}
		return errors.New("no leader")
	}); err != nil {
		return err
	}
	addrs := []string{leader}
	if c.Spread {
		addrs = public
	}
	t.ops = []string{"add"}
	carts := load.NewCarts(c.Carts, c.Lines)
	t.calls = func(_ context.Context, _ string, clients int) ([]load.Call, error) {
		calls := make([]load.Call, clients)
		for i := range calls {
			calls[i] = newEtcd(addrs[i%len(addrs)]).puts(i, carts)
		}
		return calls, nil
	}
	return nil
}

// grpcClient has one cleartext HTTP/2 connection.
func grpcClient() *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: protocols, DisableCompression: true}}
}
