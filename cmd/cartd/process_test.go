package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// child is cartd as a process of its own.
type child struct {
	cmd  *exec.Cmd
	errs *output
	done chan struct{}
	code int // once done is closed
}

// binary is what runs as cartd: this test binary, or the one that
// CARTD_TEST_BINARY names, for example one built with -cover.
func binary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("CARTD_TEST_BINARY"); path != "" {
		return path
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// spawn starts cartd with no more environment than is given.
func spawn(t testing.TB, env []string, args ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(binary(t), args...), errs: newOutput(), done: make(chan struct{})}
	c.cmd.Env = append([]string{asCommand + "=1", "GOCOVERDIR=" + os.Getenv("GOCOVERDIR"), "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir()}, env...)
	c.cmd.Dir = t.TempDir()
	c.cmd.Stderr = c.errs
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.done)
		var failed *exec.ExitError
		if err := c.cmd.Wait(); errors.As(err, &failed) {
			c.code = failed.ExitCode()
		}
	}()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it may have ended long ago
		<-c.done
	})
	return c
}

// serves waits until the process has opened its API.
func (c *child) serves(t testing.TB) {
	t.Helper()
	select {
	case <-c.errs.has("msg=serves"):
	case <-c.done:
		t.Fatalf("%s: exit %d: %s", c.cmd.Args, c.code, c.errs)
	case <-time.After(20 * time.Second):
		t.Fatalf("does not serve: %s", c.errs)
	}
}

// terminate sends SIGTERM and returns how long the process took to end, which
// must be with exit code 0.
func (c *child) terminate(t testing.TB) time.Duration {
	t.Helper()
	begin := time.Now()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.done:
	case <-time.After(15 * time.Second):
		t.Fatalf("does not stop within 15 s: %s", c.errs)
	}
	if c.code != 0 {
		t.Errorf("exit %d after SIGTERM: %s", c.code, c.errs)
	}
	return time.Since(begin)
}

// refused runs a command line that must end by itself with exit code 2 and
// one line on standard error, which it returns.
func refused(t *testing.T, env []string, args ...string) string {
	t.Helper()
	c := spawn(t, env, args...)
	select {
	case <-c.done:
	case <-time.After(15 * time.Second):
		t.Fatalf("cartd %s was not refused: %s", args, c.errs)
	}
	said := c.errs.String()
	if c.code != 2 {
		t.Errorf("cartd %s: exit %d, want 2", args, c.code)
	}
	if !strings.HasPrefix(said, "cartd: ") || strings.Count(said, "\n") != 1 {
		t.Errorf("cartd %s says more or less than one line:\n%s", args, said)
	}
	return strings.TrimSpace(said)
}

// tree sums up a directory: names, modes, contents.
func tree(t testing.TB, dir string) string {
	t.Helper()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli)) // of the fast ones
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(sum, path, info.Mode())
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(sum, "%d %s\n", len(b), b)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// freeAddresses returns addresses that nothing listens on.
func freeAddresses(t testing.TB, n int) []string {
	t.Helper()
	base := freeRow(n)
	out := make([]string, n)
	for i := range out {
		out[i] = net.JoinHostPort("127.0.0.1", strconv.Itoa(base+i))
	}
	return out
}

// alone is the command line of a region of one node with its data in dir.
func alone(dir string, more ...string) []string {
	return append([]string{
		"node", "--region", "us-east", "--node", "1", "--nodes", "us-east/1=127.0.0.1:0", "--data", dir, "--shards", "1",
		"--listen", "127.0.0.1:0", "--link-listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--trust-headers", "--memtable", "16777216",
	}, more...)
}

// serving starts a region of one node and waits until it takes writes.
func serving(t *testing.T, dir string) (*child, shopper) {
	t.Helper()
	api := freeAddresses(t, 1)[0]
	c := spawn(t, nil, alone(dir, "--listen", api)...)
	c.serves(t)
	s := (&running{}).shopper(t)
	s.headers, s.at = http.Header{"X-User-Id": {"node"}}, func(string) string { return "http://" + api }
	eventually(t, 15*time.Second, "the node is ready", func() bool {
		a, err := s.try("", "GET", "/readyz", nil)
		return err == nil && a.status == 200
	})
	return c, s
}

// nodeData makes the data directory of a node that was stopped cleanly after
// some edits.
func nodeData(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	c, s := serving(t, dir)
	for i := range 20 {
		s.add("", fmt.Sprintf("SKU-%d", i+1), 1)
	}
	c.terminate(t)
	if _, err := os.Stat(filepath.Join(dir, "clean")); err != nil {
		t.Errorf("the node left no clean mark: %v", err)
	}
	return dir
}

func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// overwrite puts garbage in the place of every file that matches.
func overwrite(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing matches %s: %v", pattern, err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		write(t, f, strings.Repeat("garbage ", int(info.Size())/8+8))
	}
}

func TestRefusedFlags(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	config := func(text string) string { return write(t, filepath.Join(t.TempDir(), "config.yaml"), text) }
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"no command":          {nil, []string{"cartd --help"}},
		"unknown command":     {[]string{"serve"}, []string{"serve", "cartd --help"}},
		"unknown flag":        {[]string{"dev", "--prot", "9000"}, []string{"--prot", "cartd dev --help"}},
		"no number":           {[]string{"dev", "--port", "many"}, []string{"--port", "many"}},
		"port out of range":   {[]string{"dev", "--port", "65535", "--data", dir}, []string{"--port 65535"}},
		"shards out of range": {[]string{"dev", "--shards", "0", "--data", dir}, []string{"--shards 0"}},
		"dev incarnation 0":   {[]string{"dev", "--incarnation", "0", "--data", dir}, []string{"--incarnation 0"}},
		"lives out of range": {
			[]string{"dev", "--data", dir, "--guest-life", "10ms", "--user-life", "0s", "--saved-life", "100000h", "--clock-skew", "2h"},
			[]string{"--guest-life 10ms", "--user-life 0s", "--saved-life 100000h", "--clock-skew 2h"},
		},
		"limits out of range":  {[]string{"dev", "--data", dir, "--lines-max", "501", "--op-life", "1s"}, []string{"--lines-max 501", "--op-life 1s"}},
		"codes out of range":   {[]string{"dev", "--data", dir, "--codes-max", "101"}, []string{"--codes-max 101"}},
		"no promotions file":   {[]string{"dev", "--data", dir, "--promotions", filepath.Join(dir, "none.yaml")}, []string{"--promotions", "none.yaml"}},
		"bad promotions file":  {[]string{"dev", "--data", dir, "--promotions", config("promotions: [{code: A, percent: 120}, {code: B}]")}, []string{`entry 1 ("A")`, `percent "120"`, `entry 2 ("B")`}},
		"promotions of a node": {alone(dir, "--promotions", config("promotions: [{code: B}]")), []string{`entry 1 ("B")`}},
		"promotions by FTP":    {alone(dir, "--promotions", "ftp://127.0.0.1"), []string{"ftp://127.0.0.1", "http://HOST:PORT"}},
		"log level":            {[]string{"--log", "loud", "dev"}, []string{"loud"}},
		"debug address in use": {[]string{"--debug-listen", "127.0.0.1:x", "dev", "--data", dir}, []string{"--debug-listen 127.0.0.1:x"}},
		"missing flags":        {[]string{"node"}, []string{"--region", "--node", "--data", "cartd node --help"}},
		"unknown region":       {alone(dir, "--region", "mars", "--nodes", "mars/1=127.0.0.1:0"), []string{`--region "mars"`, "us-east"}},
		"other region's nodes": {alone(dir, "--nodes", "eu-west/1=127.0.0.1:0"), []string{`"eu-west/1"`, "us-east/1"}},
		"node not of nodes":    {alone(dir, "--node", "4"), []string{"--node 4"}},
		"map without value":    {alone(dir, "--nodes", "us-east/1"), []string{"--nodes"}},
		"region id no number":  {alone(dir, "--regions", "us-east=one"), []string{"--regions", "one"}},
		"region id twice":      {alone(dir, "--regions", "us-east=1;eu-west=1"), []string{"same id 1"}},
		"region id 0":          {alone(dir, "--regions", "us-east=0"), []string{"id 0"}},
		"peer is itself":       {alone(dir, "--peers", "us-east=http://127.0.0.1:1"), []string{`--peers names "us-east"`}},
		"peer is no URL":       {alone(dir, "--peers", "eu-west=127.0.0.1:1"), []string{`"127.0.0.1:1"`, "http://HOST:PORT"}},
		"peer's TLS is off":    {alone(dir, "--peers", "eu-west=https://127.0.0.1:1"), []string{"http://HOST:PORT"}},
		"node without port":    {alone(dir, "--nodes", "us-east/1=127.0.0.1"), []string{"--nodes gives us-east/1", "HOST:PORT"}},
		"address of nowhere":   {alone(dir, "--addresses", "mars=http://127.0.0.1:1"), []string{`--addresses names "mars"`}},
		"address is no URL":    {alone(dir, "--addresses", "us-east=127.0.0.1:1"), []string{"--addresses gives us-east"}},
		"catalogue is no URL":  {alone(dir, "--catalog", "catalog"), []string{`--catalog "catalog"`}},
		"health of nothing":    {[]string{"health", "--addr", "here"}, []string{`--addr "here"`}},
		"health without time":  {[]string{"health", "--timeout", "0s"}, []string{"--timeout 0s"}},
		"peer without address": {alone(dir, "--peers", "eu-west="), []string{"--peers eu-west"}},
		"memtable too small":   {alone(dir, "--memtable", "1000"), []string{"--memtable 1000"}},
		"no room for repair":   {alone(dir, "--repair-bandwidth", "10"), []string{"--repair-bandwidth 10", "1024"}},
		"negative cache":       {alone(dir, "--cart-cache=-1"), []string{"--cart-cache -1"}},
		"incarnation 0":        {alone(dir, "--incarnation", "0"), []string{"--incarnation 0"}},
		"shards of a node":     {alone(dir, "--shards", "65"), []string{"--shards 65"}},
		"half of TLS":          {alone(dir, "--tls-ca", "ca.crt"), []string{"--tls-ca, --tls-cert and --tls-key"}},
		"no such CA":           {alone(dir, "--tls-ca", "no.crt", "--tls-cert", "no.crt", "--tls-key", "no.key"), []string{"--tls-ca", "no.crt"}},
		"no such token key":    {alone(dir, "--token-key", "no.pub"), []string{"--token-key", "no.pub"}},
		"no such guest key":    {alone(dir, "--guest-key", "no.key"), []string{"--guest-key", "no.key"}},
		"Redis address":        {alone(dir, "--redis", "http://x"), []string{"--redis", "http://x"}},
		"nobody to trust":      {[]string{"gateway", "--region", "us-east", "--nodes", "us-east/1=127.0.0.1:1"}, []string{"--token-key", "--trust-headers"}},
		"no such config":       {[]string{"--config", filepath.Join(dir, "no.yaml"), "dev"}, []string{"no.yaml"}},
		"config is a folder":   {[]string{"--config", t.TempDir(), "dev"}, []string{"directory"}},
		"config is no YAML":    {[]string{"--config", config("dev: [1"), "dev", "--data", dir}, []string{"config file is no YAML"}},
		"config is a list":     {[]string{"--config", config("- dev"), "dev", "--data", dir}, []string{"config file"}},
		"config: two files":    {[]string{"--config", config("dev:\n  port: 9000\n---\nnode: {}\n"), "dev", "--data", dir}, []string{"config file", "one document"}},
		"config: misspelt":     {[]string{"--config", config("dev:\n  prot: 9000\n"), "dev", "--data", dir}, []string{`"prot"`, "cartd dev --help"}},
		"config: no command":   {[]string{"--config", config("serve:\n  port: 9000\n"), "dev", "--data", dir}, []string{`"serve"`}},
		"config: no section":   {[]string{"--config", config("dev: 9000\n"), "dev", "--data", dir}, []string{`"dev"`}},
		"config: bad value":    {[]string{"--config", config("dev:\n  port: many\n"), "dev", "--data", dir}, []string{"--port", "many"}},
		"config: empty value":  {[]string{"--config", config("dev:\n  port:\n"), "dev", "--data", dir}, []string{`"port"`, "no value"}},
		"config: bad level":    {[]string{"--config", config("log: loud\n"), "dev", "--data", dir}, []string{"loud"}},
	} {
		t.Run(name, func(t *testing.T) {
			said := refused(t, nil, c.args...)
			for _, want := range c.want {
				if !strings.Contains(said, want) {
					t.Errorf("%q does not name %q", said, want)
				}
			}
		})
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused start made its data directory: %v", err)
	}
}

func TestRefusedDataOfNode(t *testing.T) {
	t.Parallel()
	whole := nodeData(t)
	for name, c := range map[string]struct {
		spoil func(dir string)
		more  []string
		want  string
	}{
		"another node's":     {nil, []string{"--node", "2", "--nodes", "us-east/1=127.0.0.1:0;us-east/2=127.0.0.1:0"}, "us-east/1"},
		"another cluster's":  {nil, []string{"--cluster", "other"}, "cluster"},
		"other shards":       {nil, []string{"--shards", "2"}, "shards"},
		"identity garbled":   {func(dir string) { overwrite(t, dir+"/node.json") }, nil, "node.json"},
		"identity empty":     {func(dir string) { write(t, dir+"/node.json", "") }, nil, "node.json"},
		"identity of nobody": {func(dir string) { write(t, dir+"/node.json", `{"format":1}`) }, nil, "node.json"},
		"identity of later":  {func(dir string) { write(t, dir+"/node.json", `{"format":9}`) }, nil, "format 9"},
		"identity gone":      {func(dir string) { remove(t, dir+"/node.json") }, nil, "node.json"},
		"somebody's files":   {func(dir string) { removeAll(t, dir); write(t, dir+"/thesis.txt", "words") }, nil, "thesis.txt"},
		"a file":             {func(dir string) { removeAll(t, dir); write(t, dir, "words") }, nil, "directory"},
		"raft's log is gone": {func(dir string) { removeAll(t, dir+"/shard-0/log") }, nil, "log of shard 0"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyOf(t, whole)
			if c.spoil != nil {
				c.spoil(dir)
			}
			before := tree(t, dir)
			said := refused(t, nil, alone(dir, c.more...)...)
			if !strings.Contains(said, c.want) || !strings.Contains(said, filepath.Base(dir)) {
				t.Errorf("%q does not name %q and %s", said, c.want, filepath.Base(dir))
			}
			if tree(t, dir) != before {
				t.Error("the refused start changed the data directory")
			}
		})
	}
}

// damaged makes a copy of a data directory in which one file is not what it was.
func damaged(t *testing.T, whole, pattern, how string) string {
	t.Helper()
	dir := copyOf(t, whole)
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing matches %s: %v", pattern, err)
	}
	path := files[0]
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	size := info.Size()
	switch how {
	case "garbage":
		write(t, path, strings.Repeat("garbage ", int(size)/8+1)[:size])
	case "cut":
		err = os.Truncate(path, size/2)
	case "empty":
		err = os.Truncate(path, 0)
	case "zeros":
		err = errors.Join(os.Truncate(path, 0), os.Truncate(path, size))
	case "gone":
		err = os.Remove(path)
	default:
		t.Fatalf("how is a file %s?", how)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Every kind of file with every kind of damage; region has those of a process
// that was killed.
func TestDamagedDataOfNode(t *testing.T) {
	t.Parallel()
	whole := nodeData(t)
	for file, hows := range map[string]string{
		"badger/MANIFEST":         "garbage cut empty zeros gone",
		"badger/KEYREGISTRY":      "garbage cut empty zeros",
		"badger/*.sst":            "garbage cut empty zeros gone",
		"badger/*.vlog":           "garbage",
		"shard-0/log/*.wal":       "garbage cut empty zeros gone",
		"shard-0/log/wal-meta.db": "garbage cut empty zeros gone",
	} {
		for how := range strings.FieldsSeq(hows) {
			t.Run(file+" "+how, func(t *testing.T) {
				dir := damaged(t, whole, file, how)
				before := tree(t, dir)
				said := refused(t, nil, alone(dir)...)
				if !strings.Contains(said, "data directory is damaged") || !strings.Contains(said, "remove") || !strings.Contains(said, filepath.Base(dir)) {
					t.Errorf("%q does not say what is damaged, and what to do", said)
				}
				if tree(t, dir) != before {
					t.Error("the refused start changed the data directory")
				}
			})
		}
	}
	for file, how := range map[string]string{
		"badger/DISCARD": "garbage", "badger/KEYREGISTRY": "gone", "badger/*.vlog": "empty", "clean": "gone",
	} {
		t.Run(file+" "+how, func(t *testing.T) {
			c, s := serving(t, damaged(t, whole, file, how))
			if cart := s.cart(""); cart.ItemCount != 20 {
				t.Errorf("the cart is:\n%s", cart)
			}
			c.terminate(t)
		})
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func removeAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func TestRefusedPortOfNode(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for _, flag := range []string{"--listen", "--link-listen", "--peer-listen"} {
		dir := filepath.Join(t.TempDir(), "data")
		if said := refused(t, nil, alone(dir, flag, taken.Addr().String())...); !strings.Contains(said, flag+" "+taken.Addr().String()+" is in use") {
			t.Errorf("%s: %q", flag, said)
		}
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the refused start made its data directory: %v", flag, err)
		}
	}
}

// Flags go before the environment, that before the file, that before defaults.
func TestWhereFlagsComeFrom(t *testing.T) {
	t.Parallel()
	config := write(t, filepath.Join(t.TempDir(), "config.yaml"), "log: warn\ndev:\n  port: 70003\n  lines-max: 601\n")
	for name, c := range map[string]struct {
		env, args []string
		want      string
	}{
		"file":        {nil, nil, "--port 70003"},
		"environment": {[]string{"SAMECART_PORT=70002"}, nil, "--port 70002"},
		"flag":        {[]string{"SAMECART_PORT=70002"}, []string{"--port", "70001"}, "--port 70001"},
		"still file":  {[]string{"SAMECART_PORT=70002"}, nil, "--lines-max 601"},
	} {
		t.Run(name, func(t *testing.T) {
			said := refused(t, c.env, append([]string{"--config", config, "dev"}, c.args...)...)
			if !strings.Contains(said, c.want) {
				t.Errorf("%q does not say %q", said, c.want)
			}
		})
	}
	if said := refused(t, []string{"SAMECART_REGION=mars"}, "gateway", "--nodes", "mars/1=127.0.0.1:1"); !strings.Contains(said, `"mars"`) {
		t.Errorf("a required flag is not taken from the environment: %q", said)
	}
	// A map in the file stands in the default's place, it is not added to it.
	config = write(t, filepath.Join(t.TempDir(), "config.yaml"), "gateway:\n  region: us-east\n  regions: {mars: 1}\n  nodes: {us-east/1: '127.0.0.1:1'}\n")
	if said := refused(t, nil, "--config", config, "gateway"); !strings.Contains(said, "(mars)") {
		t.Errorf("regions of the file: %q", said)
	}
}

func TestHelpIsGood(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"dev", "--help"}, {"node", "--help"}, {"gateway", "--help"}, {"health", "--help"}} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		cmd := exec.CommandContext(ctx, binary(t), args...)
		cmd.Env = append(os.Environ(), asCommand+"=1")
		out, err := cmd.Output()
		cancel()
		if err != nil || !strings.HasPrefix(string(out), "Usage: cartd") {
			t.Errorf("cartd %s: %v: %.80s", args, err, out)
		}
	}
}

// A node's clock is what a drill sets, within bounds, until it is set right.
func TestClockOfANode(t *testing.T) {
	t.Parallel()
	api := freeAddresses(t, 1)[0]
	c := spawn(t, nil, alone(filepath.Join(t.TempDir(), "node"), "--listen", api, "--drills")...)
	c.serves(t)
	s := (&running{}).shopper(t)
	s.headers, s.at = http.Header{"X-User-Id": {"clock"}, "X-Service-Scopes": {"admin"}}, func(string) string { return "http://" + api }
	eventually(t, 15*time.Second, "the node is ready", func() bool {
		a, err := s.try("", "GET", "/readyz", nil)
		return err == nil && a.status == 200
	})
	clock := func(status int, node string, ahead time.Duration) {
		t.Helper()
		s.do(status, "", "POST", "/admin.v1.AdminService/Clock", map[string]any{"node": node, "offset_ms": ahead.Milliseconds()})
	}
	added := func(sku string) time.Duration {
		t.Helper()
		s.add("", sku, 1)
		var cart struct {
			Items []struct {
				SKU string    `json:"sku_id"`
				At  time.Time `json:"added_at"`
			} `json:"items"`
		}
		if err := json.Unmarshal(s.do(200, "", "GET", "/api/v1/cart", nil).body, &cart); err != nil {
			t.Fatal(err)
		}
		for _, item := range cart.Items {
			if item.SKU == sku {
				return time.Until(item.At)
			}
		}
		t.Fatalf("%s is not in %+v", sku, cart)
		return 0
	}
	if ahead := added("SKU-1"); ahead > time.Minute {
		t.Errorf("added %v from now", ahead)
	}
	clock(200, "us-east/1", 30*time.Minute)
	if ahead := added("SKU-2"); ahead < 29*time.Minute || ahead > 31*time.Minute {
		t.Errorf("added %v from now, with the clock 30 minutes ahead", ahead)
	}
	clock(200, "us-east/1", 0)
	s.set("", "SKU-1", 2) // what comes later is taken, though the clock went back
	if have := s.cart("").ItemCount; have != 3 {
		t.Errorf("%d pieces, want 3", have)
	}
	clock(400, "us-east/1", 2*time.Hour)
	clock(404, "us-east/9", time.Minute)
}
