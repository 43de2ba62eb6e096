package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	adminv1 "github.com/samecart/samecart/proto/admin/v1"
	"github.com/samecart/samecart/proto/admin/v1/adminv1connect"
	"github.com/samecart/samecart/region/cache"
	"github.com/samecart/samecart/rpc"
	"github.com/samecart/samecart/rpc/member"
)

// authority signs certificates into a directory, as deploy/certs does.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  ed25519.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a.key = private
	der := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, public)
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem("ca.crt", "CERTIFICATE", der)
	return a
}

func (a *authority) sign(c *x509.Certificate, public ed25519.PublicKey) []byte {
	a.t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = serial, time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, public, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (a *authority) pem(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// files are the flags that name a region's certificate.
func (a *authority) files(region string) []string {
	return []string{"--tls-ca", filepath.Join(a.dir, "ca.crt"), "--tls-cert", filepath.Join(a.dir, region+".crt"), "--tls-key", filepath.Join(a.dir, region+".key")}
}

func (a *authority) region(name string) {
	a.t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	a.pem(name+".key", "PRIVATE KEY", key)
	a.pem(name+".crt", "CERTIFICATE", a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, public))
}

// certificates are a region's, as the server loads them.
func (a *authority) certificates(region string) *certificates {
	a.t.Helper()
	f := a.files(region)
	c, err := loadCertificates(deployed{Region: region, TLSCA: f[1], TLSCert: f[3], TLSKey: f[5]})
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// tokenKeys makes the pair that tokens are signed and checked with.
func (a *authority) tokenKeys() (private []byte, public string) {
	a.t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		a.t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		a.t.Fatal(err)
	}
	pubDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), a.pem("token.pub", "PUBLIC KEY", pubDER)
}

// deployment is a shop of two regions as processes: us-east of three nodes and
// a gateway, eu-west of one node.
type deployment struct {
	t       *testing.T
	ca      *authority
	key     []byte // signs tokens
	public  string // its public half's file
	guests  string // the file of the key that signs guests' sessions
	nodes   map[string]*child
	api     map[string]string // host:port by node, "gateway"
	links   []string          // of us-east's nodes
	peer    map[string]string // host:port by region: one node's peer port
	dataDir string
}

func deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{t: t, ca: newAuthority(t), nodes: make(map[string]*child), api: make(map[string]string), dataDir: t.TempDir()}
	for _, region := range []string{"us-east", "eu-west", "mars"} {
		d.ca.region(region)
	}
	d.guests = d.ca.guestKey()
	d.key, d.public = d.ca.tokenKeys()
	a := freeAddresses(t, 13)
	d.links = a[:3]
	d.peer = map[string]string{"us-east": a[6], "eu-west": a[7]}
	east := fmt.Sprintf("us-east/1=%s;us-east/2=%s;us-east/3=%s", a[0], a[1], a[2])
	for i := range 3 {
		d.node("us-east", fmt.Sprint(i+1), east, a[8+i], a[i], []string{a[6], a[4], a[5]}[i], "eu-west=https://"+a[7])
	}
	d.node("eu-west", "1", "eu-west/1="+a[3], a[11], a[3], a[7], fmt.Sprintf("us-east=https://%s, https://%s, https://%s", a[6], a[4], a[5]), "--drills")
	d.api["gateway"] = a[12]
	d.nodes["gateway"] = spawn(t, nil, append([]string{
		"gateway", "--region", "us-east", "--nodes", east, "--shards", "1", "--listen", a[12], "--token-key", d.public,
	}, d.ca.files("us-east")...)...)
	for name, c := range d.nodes {
		c.serves(t)
		s := d.nobody()
		eventually(t, 20*time.Second, name+" is ready", func() bool {
			got, err := s.try(name, "GET", "/readyz", nil)
			return err == nil && got.status == 200
		})
	}
	return d
}

func (d *deployment) node(region, n, nodes, api, link, peer, peers string, more ...string) {
	d.t.Helper()
	name := region + "/" + n
	d.api[name] = api
	d.nodes[name] = spawn(d.t, nil, append([]string{
		"node", "--region", region, "--node", n, "--nodes", nodes, "--shards", "1", "--data", filepath.Join(d.dataDir, region+n),
		"--listen", api, "--link-listen", link, "--peer-listen", peer, "--peers", peers, "--token-key", d.public, "--memtable", "16777216",
		"--guest-key", d.guests,
	}, append(d.ca.files(region), more...)...)...)
}

func (d *deployment) nobody() shopper {
	return shopper{t: d.t, at: func(name string) string { return "http://" + d.api[name] }, client: http.DefaultClient, headers: http.Header{}, all: []string{"gateway", "eu-west/1"}}
}

func (d *deployment) bearer(p rpc.Principal) string {
	d.t.Helper()
	token, err := rpc.SignToken(d.key, p, time.Now(), time.Minute)
	if err != nil {
		d.t.Fatal(err)
	}
	return "Bearer " + token
}

func (d *deployment) shopper() shopper {
	d.t.Helper()
	return d.nobody().with("Authorization", d.bearer(rpc.Principal{Kind: rpc.User, ID: "u" + strings.ToLower(rand.Text())}))
}

// leader is the node that leads us-east's shard.
func (d *deployment) leader(at string) string {
	d.t.Helper()
	client := adminv1connect.NewAdminServiceClient(http.DefaultClient, "http://"+d.api[at])
	req := connect.NewRequest(&adminv1.RegionsRequest{})
	req.Header().Set("Authorization", d.bearer(rpc.Principal{Kind: rpc.Service, ID: "ops", Scopes: []string{rpc.ScopeAdmin}}))
	resp, err := client.Regions(context.Background(), req)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, r := range resp.Msg.Regions {
		if r.Region == "us-east" && len(r.Shards) == 1 {
			return r.Shards[0].Leader
		}
	}
	return ""
}

func TestRegionOfProcesses(t *testing.T) {
	d := deploy(t)
	t.Run("edits cross regions", func(t *testing.T) {
		s := d.shopper()
		s.add("us-east/2", "SKU-1", 2)
		s.add("gateway", "SKU-1", 1)
		if c, _ := s.converge(2 * time.Second); c.quantity("SKU-1") != 3 {
			t.Errorf("cart:\n%s", c)
		}
		token := s.add("eu-west/1", "SKU-2", 1).header.Get("Cart-Token")
		for _, at := range []string{"us-east/1", "us-east/2", "us-east/3", "gateway"} {
			if c := s.with("Cart-Token", token).cart(at); c.quantity("SKU-2") != 1 || c.Stale {
				t.Errorf("%s: stale=%v\n%s", at, c.Stale, c)
			}
		}
	})
	t.Run("callers prove who they are", func(t *testing.T) {
		for _, at := range []string{"us-east/1", "gateway"} {
			s := d.nobody()
			s.do(401, at, "GET", "/api/v1/cart", nil)
			s.with("X-User-Id", "user-123").do(401, at, "GET", "/api/v1/cart", nil)
			s.with("Authorization", "Bearer x.y.z").do(401, at, "GET", "/api/v1/cart", nil)
			s.with("X-Service-Scopes", "admin").do(401, at, "POST", "/admin.v1.AdminService/Regions", map[string]any{})
			d.shopper().with("X-Service-Scopes", "admin").do(403, at, "POST", "/admin.v1.AdminService/Regions", map[string]any{})
		}
	})
	t.Run("guests prove who they were", func(t *testing.T) { testSignedGuest(t, d) })
	t.Run("drills are off", func(t *testing.T) {
		s := d.nobody().with("Authorization", d.bearer(rpc.Principal{Kind: rpc.Service, ID: "ops", Scopes: []string{rpc.ScopeAdmin}}))
		a, err := s.try("us-east/1", "POST", "/admin.v1.AdminService/Link", map[string]any{"action": "ACTION_CUT", "a": "us-east", "b": "eu-west"})
		if err != nil || a.status == 200 || !strings.Contains(string(a.body), "--drills") {
			t.Errorf("a cut without --drills: %d %s %v", a.status, a.body, err)
		}
		a, err = s.try("us-east/1", "POST", "/admin.v1.AdminService/Node", map[string]any{"action": "ACTION_KILL", "node": "us-east/2"})
		if err != nil || a.status == 200 || !strings.Contains(string(a.body), "--drills") {
			t.Errorf("a kill without --drills: %d %s %v", a.status, a.body, err)
		}
	})
	t.Run("link port", func(t *testing.T) {
		foreign := newAuthority(t)
		foreign.region("us-east")
		for name, c := range map[string]struct {
			certs *certificates
			want  bool
		}{
			"its own region's": {d.ca.certificates("us-east"), true},
			"another region's": {d.ca.certificates("eu-west"), false},
			"another CA's":     {foreign.certificates("us-east"), false},
			"none":             {nil, false},
		} {
			if got := d.linksTo(t, c.certs); got != c.want {
				t.Errorf("with %s certificate a link is served: %v", name, got)
			}
		}
	})
	t.Run("peer port", func(t *testing.T) {
		foreign := newAuthority(t)
		foreign.region("eu-west")
		s := d.shopper()
		id := s.add("us-east/1", "SKU-1", 1).cart(t).CartID
		for name, c := range map[string]struct {
			certs *certificates
			want  bool
		}{
			"a peer region's":      {d.ca.certificates("eu-west"), true},
			"its own region's":     {d.ca.certificates("us-east"), false},
			"an unknown region's":  {d.ca.certificates("mars"), false},
			"a peer's, another CA": {foreign.certificates("eu-west"), false},
			"none":                 {nil, false},
		} {
			conf := &tls.Config{InsecureSkipVerify: true} // it is the server that must check
			if c.certs != nil {
				conf.GetClientCertificate = c.certs.clientConfig().GetClientCertificate
			}
			client, err := member.PeerClient("eu-west", (&net.Dialer{}).DialContext, conf, []string{"https://" + d.peer["us-east"]})
			if err != nil {
				t.Fatal(err)
			}
			carts, err := client.Fetch(t.Context(), []string{id})
			if got := err == nil && len(carts) == 1 && len(carts[0].Data) > 0; got != c.want {
				t.Errorf("with %s certificate a cart is given: %v (%v)", name, got, err)
			}
		}
	})
	t.Run("certificate of another region", func(t *testing.T) {
		said := refused(t, nil, append([]string{"gateway", "--region", "us-east", "--nodes", "us-east/1=" + d.links[0], "--token-key", d.public}, d.ca.files("eu-west")...)...)
		if !strings.Contains(said, "is not for region us-east") {
			t.Errorf("refused with %q", said)
		}
	})
	t.Run("health", func(t *testing.T) {
		c := spawn(t, nil, "health", "--addr", "http://"+d.api["gateway"])
		<-c.done
		if c.code != 0 {
			t.Errorf("health of a gateway that serves: exit %d: %s", c.code, c.errs)
		}
		c = spawn(t, nil, "health", "--addr", "http://"+freeAddresses(t, 1)[0])
		<-c.done
		if c.code != 1 || strings.Count(c.errs.String(), "\n") != 1 {
			t.Errorf("health of nothing: exit %d: %s", c.code, c.errs)
		}
	})
	t.Run("SIGTERM hands over", func(t *testing.T) {
		leader := d.leader("gateway")
		var others []string
		for name := range d.nodes {
			if name != leader && !strings.HasPrefix(name, "eu-west") {
				others = append(others, name)
			}
		}
		w := writeAs(t, 4, d.shopper, others...)
		w.more(100)
		took := d.nodes[leader].terminate(t)
		w.more(100)
		if took > 5*time.Second {
			t.Errorf("%s took %v to stop", leader, took)
		}
		w.prove(true) // the writers have ended
		t.Logf("%s, the leader, stopped in %v; longest time without an acknowledged edit: %v", leader, took, w.gap)
		if now := d.leader("gateway"); now == leader || now == "" {
			t.Errorf("leader is %q after %s has stopped", now, leader)
		}
		if w.gap > time.Second {
			t.Errorf("edits stood still for %v while the leader stopped: it was not handed over", w.gap)
		}
	})
	t.Run("drills", d.drills)
}

// Drills of processes: eu-west, of one node, takes them.
func (d *deployment) drills(t *testing.T) {
	admin := d.nobody().with("Authorization", d.bearer(rpc.Principal{Kind: rpc.Service, ID: "ops", Scopes: []string{rpc.ScopeAdmin}}))
	ask := func(method string, body map[string]any) answer {
		t.Helper()
		a, err := admin.try("eu-west/1", "POST", "/admin.v1.AdminService/"+method, body)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	must := func(method string, body map[string]any) {
		t.Helper()
		if a := ask(method, body); a.status != 200 {
			t.Fatalf("%s %v: %d %s", method, body, a.status, a.body)
		}
	}
	for name, c := range map[string]struct {
		method, want string
		body         map[string]any
	}{
		"a link elsewhere":  {"Link", "not_found", map[string]any{"action": "ACTION_CUT", "a": "us-east", "b": "ap-south"}},
		"a node elsewhere":  {"Node", "not_found", map[string]any{"action": "ACTION_KILL", "node": "us-east/1"}},
		"a node's start":    {"Node", "failed_precondition", map[string]any{"action": "ACTION_START", "node": "eu-west/1"}},
		"a region's start":  {"Region", "failed_precondition", map[string]any{"action": "ACTION_START", "region": "eu-west"}},
		"a region's kill":   {"Region", "not_found", map[string]any{"action": "ACTION_KILL", "region": "us-east"}},
		"a scan from there": {"Regions", "", map[string]any{}},
	} {
		if a := ask(c.method, c.body); !strings.Contains(string(a.body), c.want) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	s := d.shopper()
	s.t = t
	must("Link", map[string]any{"action": "ACTION_CUT", "a": "us-east", "b": "eu-west"})
	if a := ask("Regions", map[string]any{}); !strings.Contains(string(a.body), `"cut":true`) {
		t.Errorf("the cut is not shown: %s", a.body)
	}
	token := s.add("eu-west/1", "SKU-1", 2).header.Get("Cart-Token")
	s.add("gateway", "SKU-1", 3)
	// Both ways: neither side's rows nor a fetch get through.
	if c := s.with("Cart-Token", token).cart("gateway"); !c.Stale || c.quantity("SKU-1") != 3 {
		t.Errorf("across the cut: stale=%v\n%s", c.Stale, c)
	}
	if c := s.cart("eu-west/1"); c.quantity("SKU-1") != 2 {
		t.Errorf("across the cut:\n%s", c)
	}
	must("Link", map[string]any{"action": "ACTION_HEAL", "a": "us-east", "b": "eu-west"})
	c, took := s.converge(2 * time.Second)
	if want := "SKU-1 x3 at 77.85\nconflict SKU-1 quantity 3 of [2 3]\n"; c.String() != want {
		t.Errorf("healed:\n%s", c)
	}
	t.Logf("equal %v after the heal", took)
	must("Region", map[string]any{"action": "ACTION_KILL", "region": "eu-west"})
	select {
	case <-d.nodes["eu-west/1"].done:
	case <-time.After(5 * time.Second):
		t.Error("the killed node lives")
	}
}

// linksTo reports whether the nodes of us-east answer a process with these
// certificates that calls itself one of them.
func (d *deployment) linksTo(t *testing.T, certs *certificates) bool {
	t.Helper()
	hot, err := cache.Open("", cache.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	p := member.Place{
		Cluster: "samecart", Region: "us-east", ID: 1, Nodes: []string{"us-east/1"}, Shards: 1, Cache: hot,
		Log: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			var dialer net.Dialer
			c, err := dialer.DialContext(ctx, "tcp", d.links[0])
			if err != nil || certs == nil {
				return c, err
			}
			conf := certs.clientConfig()
			conf.InsecureSkipVerify = true // it is the server that must check
			tc := tls.Client(c, conf)
			return tc, tc.HandshakeContext(ctx)
		},
	}
	router, mux, err := p.Gateway("us-east/gateway", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mux.Close() }()
	return len(router.Status(t.Context())) > 0
}
