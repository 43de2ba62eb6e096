package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"gopkg.in/yaml.v3"

	"github.com/samecart/samecart/rpc/shipping"
)

// cli is the command line; every flag can also come from the environment
// (SAMECART_ and the flag's name) or from the file that --config names, where
// flags stand under the command's name.
type cli struct {
	Config kong.ConfigFlag `help:"YAML file; flags stand under the command's name." placeholder:"FILE"`
	Log    string          `help:"What is logged: debug, info, warn, error." enum:"debug,info,warn,error" default:"info" env:"SAMECART_LOG"`

	DebugListen string `help:"Address for profiles of this process (pprof). Keep it private." placeholder:"HOST:PORT" env:"SAMECART_DEBUG_LISTEN"`

	Dev     devCommand     `cmd:"" help:"Run three regions of three nodes in this process."`
	Node    nodeCommand    `cmd:"" help:"Run one node of a region."`
	Gateway gatewayCommand `cmd:"" help:"Serve a region's API without a disk."`
	Health  healthCommand  `cmd:"" help:"Ask a process whether its region serves writes: exit 0, or 1 and why not."`
}

// limits are what carts and requests are held to.
type limits struct {
	LinesMax       uint32        `help:"Lines of one cart." default:"500" env:"SAMECART_LINES_MAX"`
	QuantityMax    uint32        `help:"Quantity of one line." default:"999" env:"SAMECART_QUANTITY_MAX"`
	CodesMax       uint32        `help:"Promotion codes of one cart." default:"10" env:"SAMECART_CODES_MAX"`
	OpLife         time.Duration `help:"How long an Idempotency-Key is remembered." default:"24h" env:"SAMECART_OP_LIFE"`
	Undo           time.Duration `help:"How long a remove, a clear or a merge can be undone; 0: not at all." default:"10m" env:"SAMECART_UNDO"`
	GuestLife      time.Duration `help:"How long a guest's cart lives after its last edit; the same in all regions, as the other lives." default:"24h" env:"SAMECART_GUEST_LIFE"`
	UserLife       time.Duration `help:"How long what is in a user's cart lives after the cart's last edit." default:"720h" env:"SAMECART_USER_LIFE"`
	SavedLife      time.Duration `help:"How long what a user has saved for later lives after the cart's last edit." default:"2160h" env:"SAMECART_SAVED_LIFE"`
	ClockSkew      time.Duration `help:"How far the clock of any node may be off: carts expire twice that after they are due." default:"5m" env:"SAMECART_CLOCK_SKEW"`
	RequestTimeout time.Duration `help:"Longest answer to one request." default:"2s" env:"SAMECART_REQUEST_TIMEOUT"`
}

// rates are the embedded shipping service's.
type rates struct {
	ShippingRates string `help:"JSON file with shipping rates, in place of those built in (rpc/shipping/rates.json)." placeholder:"FILE" type:"path" env:"SAMECART_SHIPPING_RATES"`
}

func (r rates) embeddedShipping() (*shipping.Service, error) {
	table, err := shipping.Default()
	if r.ShippingRates != "" {
		table, err = shipping.Read(r.ShippingRates)
	}
	if err != nil {
		return nil, fmt.Errorf("--shipping-rates: %w", err)
	}
	return shipping.New(table, time.Now), nil
}

func (l limits) validate() error {
	var errs []error
	if l.LinesMax < 1 || l.LinesMax > 500 {
		errs = append(errs, fmt.Errorf("--lines-max %d: give 1 to 500", l.LinesMax))
	}
	if l.QuantityMax < 1 || l.QuantityMax > 1_000_000 {
		errs = append(errs, fmt.Errorf("--quantity-max %d: give 1 to 1000000", l.QuantityMax))
	}
	if l.Undo < 0 || l.Undo > 24*time.Hour {
		errs = append(errs, fmt.Errorf("--undo %v: give 0 to 24h", l.Undo))
	}
	if l.CodesMax > 100 {
		errs = append(errs, fmt.Errorf("--codes-max %d: give 0 to 100", l.CodesMax))
	}
	if l.OpLife < time.Minute {
		errs = append(errs, fmt.Errorf("--op-life %v: give a minute or more", l.OpLife))
	}
	for _, life := range []struct {
		flag string
		is   time.Duration
	}{{"guest-life", l.GuestLife}, {"user-life", l.UserLife}, {"saved-life", l.SavedLife}} {
		if life.is < time.Second || life.is > lifeMax {
			errs = append(errs, fmt.Errorf("--%s %v: give 1s to %v", life.flag, life.is, lifeMax))
		}
	}
	if l.ClockSkew < 0 || l.ClockSkew > time.Hour {
		errs = append(errs, fmt.Errorf("--clock-skew %v: give 0s to 1h", l.ClockSkew))
	}
	if l.RequestTimeout < 100*time.Millisecond || l.RequestTimeout > time.Minute {
		errs = append(errs, fmt.Errorf("--request-timeout %v: give 100ms to 1m", l.RequestTimeout))
	}
	return errors.Join(errs...)
}

// lifeMax is ten years.
const lifeMax = 10 * 365 * 24 * time.Hour

type devCommand struct {
	Port      int    `help:"First port: clients without a region; the three regions follow." default:"8080" env:"SAMECART_PORT"`
	Data      string `help:"Directory of the state." default:"./data/dev" env:"SAMECART_DATA" type:"path"`
	Ephemeral bool   `help:"Keep the state in a temporary directory that goes with the process."`
	Shards    uint32 `help:"Raft groups of each region, when the state is new." default:"1" env:"SAMECART_SHARDS"`
	Redis     string `help:"Hot cache; without it each region caches in memory." placeholder:"ADDRESS" env:"SAMECART_REDIS"`
	Drills    bool   `help:"Take faults: links, nodes and regions can be cut and killed." default:"true" negatable:"" env:"SAMECART_DRILLS"`

	Incarnation uint32 `help:"Of the regions, when the state is new: raise it to restore a backup of a state that is lost." default:"1" env:"SAMECART_INCARNATION"`
	promotionRules
	limits
	rates
}

// deployed is what node and gateway have in common.
type deployed struct {
	Cluster   string            `help:"Name of the shop; processes of another are refused." default:"samecart" env:"SAMECART_CLUSTER"`
	Region    string            `help:"This region." required:"" env:"SAMECART_REGION"`
	Regions   map[string]uint16 `help:"Id of every region, the same everywhere and for ever." default:"us-east=1;eu-west=2;ap-south=3" env:"SAMECART_REGIONS"`
	Nodes     map[string]string `help:"Link address of every node of this region." required:"" placeholder:"REGION/N=HOST:PORT;…" env:"SAMECART_NODES"`
	Addresses map[string]string `help:"Public address of every region: what clients are told." placeholder:"REGION=URL;…" env:"SAMECART_ADDRESSES"`
	Catalog   string            `help:"Address of the shop's catalog.v1 service; without it the embedded catalogue answers." placeholder:"URL" env:"SAMECART_CATALOG"`
	Shipping  string            `help:"Address of the shop's shipping.v1 service; without it the embedded one answers." placeholder:"URL" env:"SAMECART_SHIPPING"`
	Shards    uint32            `help:"Raft groups of this region." default:"3" env:"SAMECART_SHARDS"`
	Listen    string            `help:"Address of the API." default:"127.0.0.1:8080" env:"SAMECART_LISTEN"`
	Redis     string            `help:"Hot cache: redis://, redis+sentinel:// or redis+cluster:// address; without it each process caches in memory." placeholder:"ADDRESS" env:"SAMECART_REDIS"`
	TLSCA     string            `name:"tls-ca" help:"CA of the processes' certificates; without it links are not encrypted." placeholder:"FILE" env:"SAMECART_TLS_CA"`
	TLSCert   string            `name:"tls-cert" help:"This process's certificate." placeholder:"FILE" env:"SAMECART_TLS_CERT"`
	TLSKey    string            `name:"tls-key" help:"Key of the certificate." placeholder:"FILE" env:"SAMECART_TLS_KEY"`
	TokenKey  []string          `help:"Public keys (PEM) that sign callers' tokens." placeholder:"FILE" env:"SAMECART_TOKEN_KEY"`
	GuestKey  string            `help:"Private key (PEM, PKCS #8) that signs guest sessions, the same in all regions; without it none are made here." placeholder:"FILE" env:"SAMECART_GUEST_KEY"`
	Trust     bool              `name:"trust-headers" help:"Take callers' identity on trust from headers, as cartd dev does. Never in public." env:"SAMECART_TRUST_HEADERS"`
	promotionRules
	sharing
	limits
	rates
}

func (d deployed) validate() error {
	errs := []error{d.limits.validate(), d.sharing.validate()}
	if _, ok := d.Regions[d.Region]; !ok {
		errs = append(errs, fmt.Errorf("--region %q is none of --regions (%s)", d.Region, strings.Join(slices.Sorted(maps.Keys(d.Regions)), ", ")))
	}
	ids := make(map[uint16]string)
	for name, id := range d.Regions {
		if id == 0 {
			errs = append(errs, fmt.Errorf("--regions gives %q the id 0: ids start at 1", name))
		}
		if other, ok := ids[id]; ok {
			errs = append(errs, fmt.Errorf("--regions gives %q and %q the same id %d", name, other, id))
		}
		ids[id] = name
	}
	for _, node := range d.names() {
		if region, n, ok := strings.Cut(node, "/"); !ok || region != d.Region || n == "" {
			errs = append(errs, fmt.Errorf("--nodes names %q: nodes of this region are called %s/1, %s/2, …", node, d.Region, d.Region))
		}
		if _, port, err := net.SplitHostPort(d.Nodes[node]); err != nil || port == "" {
			errs = append(errs, fmt.Errorf("--nodes gives %s the address %q: give HOST:PORT", node, d.Nodes[node]))
		}
	}
	for _, region := range sortedKeys(d.Addresses) {
		if _, ok := d.Regions[region]; !ok {
			errs = append(errs, fmt.Errorf("--addresses names %q, which is none of --regions", region))
		}
		if !isURL(d.Addresses[region], "http", "https") {
			errs = append(errs, fmt.Errorf("--addresses gives %s the address %q: give http://HOST:PORT or https://HOST", region, d.Addresses[region]))
		}
	}
	if d.Catalog != "" && !isURL(d.Catalog, "http", "https") {
		errs = append(errs, fmt.Errorf("--catalog %q: give http://HOST:PORT or https://HOST", d.Catalog))
	}
	if d.Shipping != "" && !isURL(d.Shipping, "http", "https") {
		errs = append(errs, fmt.Errorf("--shipping %q: give http://HOST:PORT or https://HOST", d.Shipping))
	}
	if d.Shipping != "" && d.ShippingRates != "" {
		errs = append(errs, errors.New("--shipping and --shipping-rates exclude each other: the shop's service has rates of its own"))
	}
	if d.Shards < 1 || d.Shards > 64 {
		errs = append(errs, fmt.Errorf("--shards %d: give 1 to 64", d.Shards))
	}
	given := 0
	for _, f := range []string{d.TLSCA, d.TLSCert, d.TLSKey} {
		if f != "" {
			given++
		}
	}
	if given != 0 && given != 3 {
		errs = append(errs, errors.New("--tls-ca, --tls-cert and --tls-key go together: give all three or none"))
	}
	if len(d.TokenKey) == 0 && !d.Trust {
		errs = append(errs, errors.New("no way to know callers: give --token-key, or --trust-headers on a network that nobody else reaches"))
	}
	return errors.Join(errs...)
}

func isURL(text string, schemes ...string) bool {
	u, err := url.Parse(text)
	return err == nil && slices.Contains(schemes, u.Scheme) && u.Hostname() != ""
}

// names returns the region's nodes in the order that places shards.
func (d deployed) names() []string { return slices.Sorted(maps.Keys(d.Nodes)) }

type nodeCommand struct {
	deployed
	Node        string            `help:"This node: N of REGION/N." required:"" env:"SAMECART_NODE"`
	Data        string            `help:"Data directory, this node's alone." required:"" env:"SAMECART_DATA" type:"path"`
	LinkListen  string            `help:"Address for the region's other processes." required:"" env:"SAMECART_LINK_LISTEN"`
	PeerListen  string            `help:"Address for other regions." required:"" env:"SAMECART_PEER_LISTEN"`
	Peers       map[string]string `help:"Peer addresses of the other regions' nodes, comma-separated." placeholder:"REGION=URL,URL;…" env:"SAMECART_PEERS"`
	Drills      bool              `help:"Take faults. For rehearsals." env:"SAMECART_DRILLS"`
	Memtable    int64             `help:"Bytes of one Badger memtable." default:"67108864" env:"SAMECART_MEMTABLE"`
	CartCache   int64             `help:"Bytes of decoded carts kept in memory." default:"268435456" env:"SAMECART_CART_CACHE"`
	Incarnation uint32            `help:"Raise it, on all nodes, when the region has lost the disks of all its nodes; while one has its data, that counts." default:"1" env:"SAMECART_INCARNATION"`
	RetainRows  uint64            `help:"Delta log rows kept, per shard, for a region that is away; after that it is repaired." default:"1000000" env:"SAMECART_RETAIN_ROWS"`

	RepairBandwidth int `help:"Bytes a second that this node's repairs take of the links to other regions, whole carts and what finds them; rows of edits go beside it, bounded by --link-bandwidth alone." default:"8388608" env:"SAMECART_REPAIR_BANDWIDTH"`
	CatchupRate     int `help:"Rows a second that a shard sends to a region that was away; 0: as many as it can." default:"0" env:"SAMECART_CATCHUP_RATE"`
	LinkBandwidth   int `help:"Bytes a second that this node sends to one other region: edits first, repairs what they leave; 0: no bound." default:"0" env:"SAMECART_LINK_BANDWIDTH"`
}

func (c nodeCommand) validate() error {
	errs := []error{c.deployed.validate()}
	if _, ok := c.Nodes[c.name()]; !ok {
		errs = append(errs, fmt.Errorf("--node %s: %s is none of --nodes (%s)", c.Node, c.name(), strings.Join(c.names(), ", ")))
	}
	if c.RepairBandwidth < 1<<10 {
		errs = append(errs, fmt.Errorf("--repair-bandwidth %d: give at least 1024 bytes a second", c.RepairBandwidth))
	}
	if c.CatchupRate < 0 {
		errs = append(errs, fmt.Errorf("--catchup-rate %d: give 0 for no bound, or rows a second", c.CatchupRate))
	}
	if c.LinkBandwidth != 0 && c.LinkBandwidth < 1<<10 {
		errs = append(errs, fmt.Errorf("--link-bandwidth %d: give 0 for no bound, or at least 1024 bytes a second", c.LinkBandwidth))
	}
	scheme := "http" // peers speak TLS when this node does, and only then
	if c.TLSCA != "" {
		scheme = "https"
	}
	for _, region := range sortedKeys(c.Peers) {
		if _, ok := c.Regions[region]; !ok || region == c.Region {
			errs = append(errs, fmt.Errorf("--peers names %q, which is no other region of --regions", region))
		}
		urls := splitURLs(c.Peers[region])
		if len(urls) == 0 {
			errs = append(errs, fmt.Errorf("--peers %s: give at least one address", region))
		}
		for _, u := range urls {
			if !isURL(u, scheme) {
				errs = append(errs, fmt.Errorf("--peers gives %s the address %q: give %s://HOST:PORT", region, u, scheme))
			}
		}
	}
	if c.Memtable < 16<<20 {
		errs = append(errs, fmt.Errorf("--memtable %d: give 16 MiB (16777216) or more: the largest cart must fit one transaction", c.Memtable))
	}
	if c.Incarnation < 1 {
		errs = append(errs, errIncarnation)
	}
	if c.CartCache < 0 {
		errs = append(errs, fmt.Errorf("--cart-cache %d is negative", c.CartCache))
	}
	return errors.Join(errs...)
}

var errIncarnation = errors.New("--incarnation 0: incarnations start at 1")

func (c nodeCommand) name() string { return c.Region + "/" + c.Node }

type gatewayCommand struct {
	deployed

	Forward bool `help:"Pass calls on to the nearest other region of --addresses while this one does not serve." default:"true" negatable:"" env:"SAMECART_FORWARD"`
}

// loadYAML reads the --config file. Unlike kong's own loader it refuses what
// would be passed over: keys that are no flags, flags without a value, a second
// document.
func loadYAML(r io.Reader) (kong.Resolver, error) {
	doc := make(map[string]any)
	in := yaml.NewDecoder(r)
	if err := in.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("config file is no YAML: %w", err)
	}
	if err := in.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("config file has more than one document: only the first would be read")
	}
	return yamlFile(doc), nil
}

type yamlFile map[string]any

// Validate implements kong.Resolver.
func (y yamlFile) Validate(app *kong.Application) error {
	isFlag := func(flags []*kong.Flag, name string) bool {
		return slices.ContainsFunc(flags, func(f *kong.Flag) bool { return f.Name == name && name != "help" && name != "config" })
	}
	for _, key := range slices.Sorted(maps.Keys(y)) {
		if isFlag(app.Flags, key) {
			if y[key] == nil {
				return fmt.Errorf("config file: %q has no value", key)
			}
			continue
		}
		command := slices.IndexFunc(app.Children, func(n *kong.Node) bool { return n.Name == key })
		if command < 0 {
			return fmt.Errorf("config file: %q is no command of cartd; flags stand under dev, node or gateway", key)
		}
		section, ok := y[key].(map[string]any)
		if !ok {
			return fmt.Errorf("config file: %q must hold flags and their values", key)
		}
		for _, name := range slices.Sorted(maps.Keys(section)) {
			if !isFlag(app.Children[command].Flags, name) {
				return fmt.Errorf("config file: cartd %s has no flag %q; see cartd %s --help", key, name, key)
			}
			if section[name] == nil {
				return fmt.Errorf("config file: %q of cartd %s has no value", name, key)
			}
		}
	}
	return nil
}

// Resolve implements kong.Resolver. kong asks it for flags that are not on
// the command line, the environment's among them: those win over the file.
func (y yamlFile) Resolve(ctx *kong.Context, parent *kong.Path, flag *kong.Flag) (any, error) {
	for _, name := range flag.Envs {
		if _, ok := os.LookupEnv(name); ok {
			return nil, nil
		}
	}
	section := map[string]any(y)
	if parent.App == nil {
		selected := ctx.Selected()
		if selected == nil {
			return nil, nil
		}
		section, _ = y[selected.Name].(map[string]any) // Validate has seen it
	}
	v := section[flag.Name]
	if m, ok := v.(map[string]any); ok {
		return flattened(m), nil
	}
	return v, nil
}

// flattened writes a map as it would stand on the command line: lists within
// it become comma-separated.
func flattened(m map[string]any) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		v := m[k]
		if list, ok := v.([]any); ok {
			var items []string
			for _, item := range list {
				items = append(items, fmt.Sprint(item))
			}
			v = strings.Join(items, ",")
		}
		out = append(out, fmt.Sprintf("%s=%v", k, v))
	}
	return strings.Join(out, ";")
}
