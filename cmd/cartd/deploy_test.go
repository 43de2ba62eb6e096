package main

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const deployDir = "../../deploy"

// composeFile is what tests look at of deploy/compose.yaml.
type composeFile struct {
	Services map[string]struct {
		Command     []string
		Environment map[string]string
		Networks    any // a list, or a map to settings
		Ports       []string
		Volumes     []string
		Healthcheck struct{ Test []string }
	}
}

func readCompose(t *testing.T) composeFile {
	t.Helper()
	b, err := os.ReadFile(deployDir + "/compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c composeFile
	if err := yaml.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// parsed is a command line as cartd reads it, with its file in this tree.
func parsed(t *testing.T, args []string) cli {
	t.Helper()
	args = slices.Clone(args)
	for i, a := range args {
		if file, ok := strings.CutPrefix(a, "--config=/etc/samecart/"); ok {
			args[i] = "--config=" + filepath.Join(deployDir, "config", file)
		}
	}
	var c cli
	if _, err := c.parse(args, io.Discard, io.Discard); err != nil {
		t.Fatalf("cartd %s: %v", args, err)
	}
	return c
}

func port(t *testing.T, addr string) string {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every service of compose.yaml starts with flags that cartd takes, finds the
// others where they listen, and is asked for its health where it answers.
func TestComposeFitsCartd(t *testing.T) {
	compose := readCompose(t)
	names := slices.Sorted(maps.Keys(compose.Services))
	nodes, gateways := make(map[string]nodeCommand), make(map[string]gatewayCommand)
	for _, name := range names {
		s := compose.Services[name]
		if len(s.Command) == 0 || strings.HasSuffix(name, "-redis") {
			continue
		}
		c := parsed(t, s.Command)
		var d deployed
		switch s.Command[0] {
		case "node":
			if err := c.Node.validate(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			nodes[name], d = c.Node, c.Node.deployed
		case "gateway":
			if err := c.Gateway.validate(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			gateways[name], d = c.Gateway, c.Gateway.deployed
			if want := fmt.Sprintf("127.0.0.1:%s:%s", port(t, d.Listen), port(t, d.Listen)); !slices.Contains(s.Ports, want) {
				t.Errorf("%s listens on %s and publishes %s", name, d.Listen, s.Ports)
			}
		default:
			t.Fatalf("%s runs %s", name, s.Command)
		}
		// What it mounts is what its flags name.
		for _, file := range []string{d.TLSCA, d.TLSCert, d.TLSKey, d.TokenKey[0], d.GuestKey} {
			if path.Dir(file) != "/etc/samecart/tls" || !slices.Contains(s.Volumes, "../data/tls/"+d.Region+":/etc/samecart/tls:ro") {
				t.Errorf("%s reads %s, of %s", name, file, s.Volumes)
			}
		}
		if d.Trust {
			t.Errorf("%s trusts headers", name)
		}
		if got := compose.Services[strings.TrimPrefix(strings.SplitN(d.Redis, ":6379", 2)[0], "redis://")]; len(got.Command) == 0 {
			t.Errorf("%s: no service answers at %s", name, d.Redis)
		}
		// The health check asks the port that it listens on.
		if want := []string{"CMD", "/usr/local/bin/cartd", "health"}; !slices.Equal(s.Healthcheck.Test, want) {
			t.Errorf("%s: health check %s", name, s.Healthcheck.Test)
		}
		asked := s.Environment["SAMECART_ADDR"]
		if asked == "" {
			asked = parsed(t, []string{"health"}).Health.Addr
		}
		if want := "http://127.0.0.1:" + port(t, d.Listen); asked != want {
			t.Errorf("%s is asked for its health at %s, listens at %s", name, asked, want)
		}
	}
	if len(nodes) != 9 || len(gateways) != 3 {
		t.Fatalf("%d nodes and %d gateways", len(nodes), len(gateways))
	}
	data := make(map[string]string)
	for name, n := range nodes {
		if want := strings.Replace(n.name(), "/", "-", 1); name != want {
			t.Errorf("service %s is node %s", name, n.name())
		}
		for _, v := range compose.Services[name].Volumes {
			if volume, ok := strings.CutSuffix(v, ":"+n.Data); ok {
				data[volume] = name
			}
		}
		if n.Drills {
			t.Errorf("%s takes faults", name)
		}
		for node, addr := range n.Nodes {
			host, p, _ := net.SplitHostPort(addr)
			if to, ok := nodes[host]; !ok || to.name() != node || port(t, to.LinkListen) != p {
				t.Errorf("%s looks for %s at %s", name, node, addr)
			}
		}
		if len(n.Peers) != 2 {
			t.Errorf("%s has %d peers", name, len(n.Peers))
		}
		for region, list := range n.Peers {
			urls := splitURLs(list)
			if len(urls) != 3 {
				t.Errorf("%s knows %s of %s", name, urls, region)
			}
			for _, u := range urls {
				at, err := url.Parse(u)
				if to, ok := nodes[at.Hostname()]; err != nil || !ok || to.Region != region || port(t, to.PeerListen) != at.Port() {
					t.Errorf("%s looks for region %s at %s", name, region, u)
				}
			}
		}
		for gate, g := range gateways {
			if g.Region == n.Region && !maps.Equal(g.Nodes, n.Nodes) || g.Shards != n.Shards || !maps.Equal(g.Regions, n.Regions) || !maps.Equal(g.Addresses, n.Addresses) {
				t.Errorf("%s and %s disagree", gate, name)
			}
			at, err := url.Parse(n.Addresses[g.Region])
			if err != nil || at.Port() != port(t, g.Listen) {
				t.Errorf("%s says that %s is at %s, it listens on %s", name, g.Region, n.Addresses[g.Region], g.Listen)
			}
		}
	}
	if len(data) != 9 {
		t.Errorf("nine nodes have %d volumes", len(data))
	}
}
