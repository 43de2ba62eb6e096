package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
)

func TestRestartKeepsCarts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "dev")
	d := start(t, dir)
	s := d.shopper(t)
	s.add("us-east", "SKU-1", 2)
	s.with("Idempotency-Key", "k1").add("eu-west", "SKU-2", 3)
	before, _ := s.converge(2 * time.Second)
	// What was not sent when the process stopped is sent after the start.
	for _, l := range links {
		d.link(t, adminv1.LinkRequest_ACTION_CUT, l[0], l[1], 0)
	}
	s.add("ap-south", "SKU-3", 4)

	t.Run("another cartd on the same data", func(t *testing.T) {
		said := refused(t, nil, "dev", "--port", fmt.Sprint(freeBase()), "--data", dir)
		if !strings.Contains(said, dir) || !strings.Contains(said, "in use") {
			t.Errorf("refused with %q", said)
		}
	})
	t.Run("another cartd on the same port", func(t *testing.T) {
		other := filepath.Join(t.TempDir(), "dev")
		said := refused(t, nil, "dev", "--port", fmt.Sprint(d.base-2), "--data", other)
		if !strings.Contains(said, fmt.Sprintf("port %d is in use", d.base)) {
			t.Errorf("refused with %q", said)
		}
		if _, err := os.Stat(filepath.Join(other, "us-east")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the refused start made data: %v", err)
		}
	})

	watch := s.events(t.Context(), "us-east")
	<-watch
	begin := time.Now()
	d.stop(t)
	t.Logf("stopped in %v", time.Since(begin))
	for range watch { // it ends with the server
	}
	for _, region := range regions {
		for n := 1; n <= devNodes; n++ {
			if _, err := os.Stat(filepath.Join(dir, region, fmt.Sprint(n), "clean")); err != nil {
				t.Errorf("%s/%d left no clean mark: %v", region, n, err)
			}
		}
	}
	if ln, err := net.Listen("tcp", strings.TrimPrefix(d.url("us-east"), "http://")); err != nil {
		t.Errorf("the port is still taken: %v", err)
	} else if err := ln.Close(); err != nil {
		t.Error(err)
	}

	d = start(t, dir)
	s.at = d.url
	after, _ := s.converge(2 * time.Second)
	if want := before.String() + "SKU-3 x4"; !strings.HasPrefix(after.String(), want) {
		t.Errorf("after the restart:\n%swant:\n%s", after, want)
	}
	if a := s.with("Idempotency-Key", "k1").add("us-east", "SKU-2", 3); a.header.Get("Idempotent-Replayed") != "true" {
		t.Error("a retry from before the restart counted again")
	}
	if s.add("us-east", "SKU-1", 1).cart(t); s.cart("us-east").quantity("SKU-1") != 3 {
		t.Error("no edit after the restart")
	}
	d.stop(t)
}

func TestRefusedDataOfDev(t *testing.T) {
	t.Parallel()
	whole := filepath.Join(t.TempDir(), "dev")
	d := start(t, whole)
	s := d.shopper(t)
	s.surely("us-east", "SKU-1", 2)
	s.converge(10 * time.Second)
	d.stop(t)
	type spoilt struct {
		spoil func(dir string) string // returns the directory to start with
		more  []string
		want  []string
	}
	cases := map[string]spoilt{
		"another node's": {func(dir string) string {
			dir = copyOf(t, dir)
			exchange(t, dir+"/eu-west/2", dir+"/eu-west/3")
			return dir
		}, nil, []string{"eu-west/3"}},
		"other shards":     {copied(t), []string{"--shards", "2"}, []string{"shards"}},
		"identity gone":    {func(dir string) string { return damaged(t, dir, "eu-west/2/node.json", "gone") }, nil, []string{"node.json"}},
		"a region is gone": {func(dir string) string { dir = copyOf(t, dir); removeAll(t, dir+"/eu-west"); return dir }, nil, []string{"eu-west"}},
		"its nodes are": {func(dir string) string {
			dir = copyOf(t, dir)
			for n := 1; n <= devNodes; n++ {
				removeAll(t, fmt.Sprintf("%s/eu-west/%d", dir, n))
			}
			return dir
		}, nil, []string{"eu-west"}},
		"somebody's files": {func(dir string) string { dir = copyOf(t, dir); write(t, dir+"/thesis.txt", "words"); return dir }, nil, []string{"thesis.txt"}},
	}
	for file, hows := range map[string]string{
		"node.json": "garbage empty", "badger/MANIFEST": "garbage cut gone", "badger/*.sst": "garbage cut gone", "badger/KEYREGISTRY": "garbage",
		"badger/*.vlog": "garbage", "shard-0/log/*.wal": "garbage cut gone", "shard-0/log/wal-meta.db": "garbage cut empty",
	} {
		for how := range strings.FieldsSeq(hows) {
			cases[file+" "+how] = spoilt{func(dir string) string { return damaged(t, dir, "ap-south/1/"+file, how) }, nil, []string{"damaged", "ap-south/1"}}
		}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			dir := c.spoil(whole)
			before := tree(t, dir)
			said := refused(t, nil, append([]string{"dev", "--port", fmt.Sprint(freeBase()), "--data", dir}, c.more...)...)
			for _, want := range append(c.want, filepath.Base(dir)) {
				if !strings.Contains(said, want) {
					t.Errorf("%q does not name %q", said, want)
				}
			}
			if tree(t, dir) != before {
				t.Error("the refused start changed the data")
			}
		})
	}
	// What the line says to do helps: the database comes from the log.
	dir := damaged(t, whole, "ap-south/1/badger/*.sst", "garbage")
	removeAll(t, dir+"/ap-south/1/badger")
	s.at = start(t, dir).url
	if c, _ := s.converge(2 * time.Second); c.ItemCount != 2 {
		t.Errorf("mended, the cart is:\n%s", c)
	}
}

func copied(t *testing.T) func(string) string {
	return func(dir string) string { return copyOf(t, dir) }
}

// exchange swaps two directories.
func exchange(t *testing.T, a, b string) {
	t.Helper()
	for _, move := range [][2]string{{a, a + ".x"}, {b, a}, {a + ".x", b}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEphemeralLeavesNothing(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	t.Chdir(t.TempDir())
	d := start(t, "", "--ephemeral", "--no-drills")
	s := d.shopper(t)
	s.add("us-east", "SKU-1", 1)
	s.converge(2 * time.Second)
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) != 1 {
		t.Errorf("state is not in the temporary directory: %v, %v", entries, err)
	}
	t.Run("drills are off", func(t *testing.T) {
		ctx := context.Background()
		_, link := d.admin("front").Link(ctx, connect.NewRequest(&adminv1.LinkRequest{Action: adminv1.LinkRequest_ACTION_CUT, A: "us-east", B: "eu-west"}))
		_, node := d.admin("front").Node(ctx, connect.NewRequest(&adminv1.NodeRequest{Action: adminv1.NodeRequest_ACTION_KILL, Node: "us-east/1"}))
		_, region := d.admin("front").Region(ctx, connect.NewRequest(&adminv1.RegionRequest{Action: adminv1.NodeRequest_ACTION_KILL, Region: "us-east"}))
		_, clock := d.admin("front").Clock(ctx, connect.NewRequest(&adminv1.ClockRequest{Node: "us-east/1", OffsetMs: 1}))
		for _, err := range []error{link, node, region, clock} {
			if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), "--drills") {
				t.Errorf("a fault without drills: %v", err)
			}
		}
		if !status(t, d, "us-east").Ready {
			t.Error("the region is not ready")
		}
	})
	d.stop(t)
	for _, dir := range []string{tmp, "."} {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 0 {
			t.Errorf("left behind in %s: %v, %v", dir, entries, err)
		}
	}
	// As a process: Ctrl-C ends it with 0.
	c := spawn(t, nil, "dev", "--ephemeral", "--port", fmt.Sprint(freeBase()))
	t.Cleanup(func() { removeAll(t, tmp) })
	probe := shopper{t: t, at: func(string) string { return "http://127.0.0.1:" + c.cmd.Args[4] }, client: http.DefaultClient, headers: http.Header{}}
	eventually(t, 20*time.Second, "the process is ready", func() bool {
		a, err := probe.try("", "GET", "/readyz", nil)
		return err == nil && a.status == 200
	})
	t.Logf("stopped by SIGTERM in %v", c.terminate(t))
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// The API answers, and asks the nodes, from before they are started: what it
// reads of them then is what the race detector looks at here.
func TestAskedWhileStarting(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{base: freeBase(), cancel: cancel, done: make(chan struct{}), out: newOutput(), errs: newOutput()}
	go func() {
		defer close(r.done)
		r.code = run(ctx, []string{"--log", "error", "dev", "--ephemeral", "--port", fmt.Sprint(r.base)}, r.out, r.errs)
	}()
	t.Cleanup(func() { r.stop(t) })
	var asking sync.WaitGroup
	for _, region := range append([]string{"front"}, regions...) {
		asking.Go(func() { r.ready(t, region) })
	}
	asking.Wait()
}

// A start that is broken off leaves no mark that looks like a failure.
func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	out, errs := newOutput(), newOutput()
	go func() {
		<-out.has("state in") // the nodes have just been started
		cancel()
	}()
	dir := filepath.Join(t.TempDir(), "dev")
	if code := run(ctx, []string{"--log", "error", "dev", "--port", fmt.Sprint(freeBase()), "--data", dir}, out, errs); code != 0 {
		t.Errorf("exit %d: %s", code, errs)
	}
	d := start(t, dir)
	s := d.shopper(t)
	s.add("us-east", "SKU-1", 1)
	s.converge(10 * time.Second)
}
