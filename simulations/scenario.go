package simulations

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc/client"
	"github.com/samecart/samecart/simulations/network"
)

// A scenario is a text file: a script, a line "----", and what its calls answered
// and all regions show in the end. testdata/README.md says which words there are.
type scenario struct {
	shape  Shape
	script []string // without comments and directives
	want   []string // with comments
}

const divider = "----\n"

// parseScenario reads a scenario's file.
func parseScenario(text string) (scenario, error) {
	s := scenario{shape: Shape{Regions: len(regionNames), Nodes: 1, Shards: 1}}
	script, want, ok := strings.Cut(text, divider)
	if !ok {
		return s, errors.New(`there is no line "----" after the script`)
	}
	s.want = strings.Split(strings.TrimRight(want, "\n"), "\n")
	for line := range strings.Lines(script) {
		words := strings.Fields(uncommented(line))
		switch {
		case len(words) == 0:
		case words[0] == "regions":
			s.shape.Regions = len(words) - 1
			if len(words) == 1 || len(words)-1 > len(regionNames) || !slices.Equal(words[1:], regionNames[:len(words)-1]) {
				return s, fmt.Errorf("%q: the regions are the first of %v, in this order", line, regionNames)
			}
		case words[0] == "nodes" && len(words) == 2:
			n, err := strconv.Atoi(words[1])
			if err != nil || n < 1 || n > 5 {
				return s, fmt.Errorf("%q: a region has 1 to 5 nodes", line)
			}
			s.shape.Nodes = n
		default:
			s.script = append(s.script, strings.Join(words, " "))
		}
	}
	return s, nil
}

// uncommented is a line without its comment.
func uncommented(line string) string {
	line, _, _ = strings.Cut(line, "#")
	return strings.TrimRight(line, " \n")
}

// annotated gives the lines of a transcript the comments that the same lines had, in
// the same order. A line that is new has none: what was said may not be so any more.
func annotated(lines, old []string) []string {
	out := slices.Clone(lines)
	column := 0
	comments := make([]string, len(lines))
	for i, line := range lines {
		at := slices.IndexFunc(old, func(o string) bool { return uncommented(o) == line })
		if at < 0 {
			continue
		}
		if _, comment, ok := strings.Cut(old[at], "#"); ok {
			comments[i] = strings.TrimSpace(comment)
			column = max(column, len(line))
		}
		old = old[at+1:]
	}
	for i, comment := range comments {
		if comment != "" {
			out[i] = fmt.Sprintf("%-*s  # %s", column, lines[i], comment)
		}
	}
	return out
}

// stage is where a scenario is played: a world, and a client for each region, or
// node, that it speaks with. A client knows that one alone, and asks once.
type stage struct {
	world   *world
	ctx     context.Context
	doors   map[string]*door
	carts   []string                             // in the order in which they are first named
	tokens  map[string]string                    // what devices have seen, by cart and device
	links   map[string]*cartv1.ShareCartResponse // by their names in the script
	written []string

	mu sync.Mutex // guards the maps above while calls are made together
}

// door is a client of one region or node.
type door struct {
	host   *network.Host
	http   *http.Transport
	client *client.Client
}

// play plays a scenario in the bubble it is called in, and returns its transcript.
func (s scenario) play(root string, log io.Writer) (lines []string, err error) {
	plan := Plan{
		Seed: 1, Shape: s.shape, Latency: 40 * time.Millisecond, Heartbeat: 2 * time.Second,
		SnapshotAfter: 1000, Trailing: 500, Segment: 64 << 10,
	}
	w, err := newWorld(plan, root, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		return nil, err
	}
	defer w.close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if err := w.startAll(ctx); err != nil {
		return nil, err
	}
	st := &stage{world: w, ctx: ctx, doors: make(map[string]*door), tokens: make(map[string]string), links: make(map[string]*cartv1.ShareCartResponse)}
	defer st.close()
	for _, line := range s.script {
		if err := st.do(line); err != nil {
			return st.written, fmt.Errorf("%q: %w", line, err)
		}
	}
	for _, cart := range st.carts {
		st.show(cart)
	}
	for _, v := range w.violations() {
		err = errors.Join(err, errors.New(v.String()))
	}
	for _, name := range w.names {
		if p := w.nodes[name].running(); p != nil {
			p.mu.Lock()
			if p.failed != nil {
				err = errors.Join(err, fmt.Errorf("%s wants to end: %w", name, p.failed))
			}
			p.mu.Unlock()
		}
	}
	return st.written, err
}

func (st *stage) close() {
	for _, d := range st.doors {
		d.client.Close()
		d.host.Kill(false)
	}
}

func (st *stage) write(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		st.written = append(st.written, strings.TrimRight(line, " "))
	}
}

// do does what one line of a script says.
func (st *stage) do(line string) error {
	if calls := strings.Split(line, " & "); len(calls) > 1 {
		return st.together(line, calls)
	}
	words := strings.Fields(line)
	if _, err := st.nodesOf(words[0]); err == nil {
		c, err := parseCall(words)
		if err != nil {
			return err
		}
		st.write("%s -> %s", line, st.call(c))
		return nil
	}
	args := words[1:]
	switch words[0] {
	case "partition", "cut", "slow", "bridge", "flap", "heal":
		return st.link(words[0], args)
	case "kill", "start", "restart":
		return st.power(words[0], args)
	case "price": // of everything that sells it, in all regions
		return st.price(args)
	case "sleep":
		if len(args) != 1 {
			return errors.New("sleep wants a duration")
		}
		d, err := time.ParseDuration(args[0])
		time.Sleep(d)
		return err
	case "settle":
		st.write("%s -> %s", line, st.settle(args))
	case "await":
		return st.await(args)
	case "show":
		c, err := parseOptions(args, &call{cart: defaultCart})
		st.show(c.cart)
		return err
	default:
		return errors.New("there is no such word; testdata/README.md has them all")
	}
	return nil
}

// together makes calls at the same time. Which is first is chance, so the transcript
// says only that all were made.
func (st *stage) together(line string, texts []string) error {
	var all sync.WaitGroup
	answers := make([]string, len(texts))
	for i, text := range texts {
		c, err := parseCall(strings.Fields(text))
		if err != nil {
			return err
		}
		st.named(c.cart)
		all.Go(func() { answers[i] = st.call(c) })
	}
	all.Wait()
	for _, a := range answers {
		if strings.HasPrefix(a, refusedMark) {
			st.write("%s -> %s", line, strings.Join(answers, "; "))
			return nil
		}
	}
	st.write("%s -> all made", line)
	return nil
}

// nodesOf are the nodes that a region's or a node's name stands for.
func (st *stage) nodesOf(name string) (nodes []*node, err error) {
	for _, n := range st.world.names {
		if at := st.world.nodes[n]; at.name == name || at.region == name {
			nodes = append(nodes, at)
		}
	}
	if nodes == nil {
		return nil, fmt.Errorf("%q is neither a region, such as us-east, nor a node, such as us-east/1", name)
	}
	return nodes, nil
}

// --- faults ---

// link changes how regions, or nodes, reach each other.
func (st *stage) link(word string, args []string) error {
	w := st.world
	both := func(a, b string, way network.Way) {
		w.set(a, b, way)
		w.set(b, a, way)
	}
	ends := make([]string, len(args)) // as the world names them
	for i, a := range args {
		ends[i] = hostOf(a)
		if nodes, err := st.nodesOf(a); err == nil && nodes[0].region == a {
			ends[i] = a
		}
	}
	switch {
	case word == "heal" && len(args) == 0:
		st.cutOnly(nil)
	case word == "partition" && slices.Contains(args, "|"):
		group := 0
		groups := make(map[string]int)
		for i, a := range args {
			if a == "|" {
				group++
				continue
			}
			if _, err := st.nodesOf(a); err != nil {
				return err
			}
			groups[ends[i]] = group
		}
		cuts := make(map[[2]string]bool)
		for a := range groups {
			for b := range groups {
				cuts[[2]string{a, b}] = groups[a] != groups[b]
			}
		}
		st.cutOnly(cuts)
	case word == "bridge" && len(args) == 1:
		cuts := make(map[[2]string]bool)
		for _, a := range regionNames {
			for _, b := range regionNames {
				cuts[[2]string{a, b}] = a != b && a != args[0] && b != args[0]
			}
		}
		st.cutOnly(cuts)
	case word == "cut" && len(args) == 2:
		both(ends[0], ends[1], network.Way{Cut: true})
	case word == "cut" && len(args) == 3 && args[1] == ">":
		w.set(ends[0], ends[2], network.Way{Cut: true})
	case word == "slow" && len(args) == 3:
		d, err := time.ParseDuration(args[2])
		both(ends[0], ends[1], network.Way{Latency: d})
		return err
	case word == "flap" && len(args) == 3:
		n, err := strconv.Atoi(args[2])
		for range n {
			both(ends[0], ends[1], network.Way{Cut: true})
			time.Sleep(time.Second)
			both(ends[0], ends[1], network.Way{})
			time.Sleep(time.Second)
		}
		return err
	default:
		return fmt.Errorf("%s %v is not in testdata/README.md", word, args)
	}
	return nil
}

// cutOnly cuts what is to be cut and then puts all else right. Not the other way round:
// what a cut holds back would get through between two partitions.
func (st *stage) cutOnly(cuts map[[2]string]bool) {
	w := st.world
	for k, cut := range cuts {
		if cut {
			w.set(k[0], k[1], network.Way{Cut: true})
		}
	}
	w.mu.Lock()
	ways := maps.Clone(w.ways)
	w.mu.Unlock()
	for k := range ways {
		if !cuts[k] {
			w.set(k[0], k[1], network.Way{})
		}
	}
}

// power kills, starts or restarts the nodes of a region, or one.
func (st *stage) power(word string, args []string) error {
	var nodes []*node
	switch {
	case len(args) == 1:
		var err error
		if nodes, err = st.nodesOf(args[0]); err != nil {
			return err
		}
	case len(args) == 3 && args[0] == "leader" && args[1] == "of":
		all, err := st.nodesOf(args[2])
		if err != nil {
			return err
		}
		for _, n := range all {
			if p := n.running(); p != nil {
				if s, ok := p.member.Node.Shard(0); ok && s.Leads() {
					nodes = append(nodes, n)
				}
			}
		}
		if len(nodes) != 1 {
			return fmt.Errorf("%d nodes of %s lead", len(nodes), args[2])
		}
	default:
		return fmt.Errorf("%s wants a region, a node, or: leader of REGION", word)
	}
	for _, n := range nodes {
		switch {
		case word == "kill":
			n.bury(false)
			continue
		case word == "restart":
			n.halt()
		}
		if n.up() {
			continue
		}
		if err := n.start(); err != nil {
			return err
		}
	}
	return nil
}

// await waits until a region serves.
func (st *stage) await(args []string) error {
	return st.world.await(st.ctx, time.Minute, func(ctx context.Context) error {
		for _, region := range args {
			if err := st.world.serves(ctx, region); err != nil {
				return err
			}
		}
		return nil
	})
}

func (st *stage) price(args []string) error {
	if len(args) != 2 {
		return errors.New("price wants a line and an amount, such as 19.99")
	}
	ref, err := parseLine(args[0])
	if err != nil {
		return err
	}
	minor, err := parseAmount(args[1])
	if err != nil {
		return err
	}
	if !st.world.catalog.SetPrice(ref.GetSkuId(), ref.GetSellerId(), minor) {
		return errors.New("the catalogue does not have it")
	}
	time.Sleep(2 * time.Second) // regions remember a price for a second
	return nil
}

// settle waits until all nodes that run hold the same; of the regions named, or of
// all.
func (st *stage) settle(regions []string) string {
	const within = time.Minute
	err := st.world.await(st.ctx, within, func(context.Context) error {
		var first [][16]byte
		for _, name := range st.world.names {
			n := st.world.nodes[name]
			p := n.running()
			if p == nil || len(regions) > 0 && !slices.Contains(regions, n.region) {
				continue
			}
			_, digests, err := p.content(st.world.plan.Shape.Shards)
			if err != nil {
				return err
			}
			if first == nil {
				first = digests
			}
			if !slices.Equal(first, digests) {
				return fmt.Errorf("%s differs", name)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Sprintf("not equal within %v", within)
	}
	return "equal"
}

// --- calls ---

const (
	defaultCart = "anna"
	refusedMark = "error "
)

// call is one call of a script.
type call struct {
	at, verb string
	edits    []edit
	cart     string
	op       string
	device   string // its calls carry what it has seen
	price    string
	prices   bool // are shown
	link     link
}

// edit is a verb of a call, or of a batch.
type edit struct {
	verb       string
	line       *cartv1.LineRef
	quantity   uint32
	attributes map[string]string
}

// parseCall reads "REGION VERB … KEY=VALUE…".
func parseCall(words []string) (call, error) {
	c := call{at: words[0], cart: defaultCart}
	if len(words) < 2 {
		return c, errors.New("what is it to do?")
	}
	c.verb = words[1]
	words, err := c.options(words[2:])
	if err != nil {
		return c, err
	}
	switch c.verb {
	case "get", "explain":
		c.prices = slices.Equal(words, []string{"prices"})
		if len(words) > 0 && !c.prices {
			return c, fmt.Errorf("%s wants nothing, or prices", c.verb)
		}
		return c, nil
	case "share", "open", "revoke", "copy":
		c.link, err = parseLink(c.verb, words)
		return c, err
	case "batch":
		for text := range strings.SplitSeq(strings.Join(words, " "), ";") {
			e, err := parseEdit(strings.Fields(text))
			if err != nil {
				return c, err
			}
			c.edits = append(c.edits, e)
		}
		return c, nil
	}
	e, err := parseEdit(append([]string{c.verb}, words...))
	c.edits = []edit{e}
	return c, err
}

// options takes the options out of a call's words, and returns the others.
func (c *call) options(words []string) (others []string, err error) {
	for _, word := range words {
		key, value, ok := strings.Cut(word, "=")
		switch {
		case !ok || strings.Contains(key, "["):
			others = append(others, word)
		case key == "cart":
			c.cart = value
		case key == "op":
			c.op = value
		case key == "device":
			c.device = value
		case key == "price":
			c.price = value
			_, err = parseAmount(value)
		default:
			return nil, fmt.Errorf("%q: options are cart=, op=, device=, price=", word)
		}
	}
	return others, err
}

func parseOptions(words []string, c *call) (*call, error) {
	others, err := c.options(words)
	if err == nil && len(others) > 0 {
		err = fmt.Errorf("%v is not expected", others)
	}
	return c, err
}

// parseEdit reads "add LINE N", "set LINE N", "remove LINE" or "clear".
func parseEdit(words []string) (e edit, err error) {
	want := map[string]int{"add": 3, "set": 3, "remove": 2, "clear": 1, "save": 2, "move": 2, "describe": 3, "undo": 1, "erase": 1}
	if len(words) == 0 || len(words) != want[words[0]] {
		return e, fmt.Errorf("%v is none of: add LINE N, set LINE N, remove LINE, clear, save LINE, move LINE, describe LINE NAME:VALUE, undo, erase, batch EDIT; EDIT…, get, explain, share MODE NAME, open NAME, revoke NAME, copy NAME", words)
	}
	e.verb = words[0]
	if len(words) > 1 {
		e.line, err = parseLine(words[1])
	}
	switch {
	case e.verb == "describe":
		name, value, _ := strings.Cut(words[2], ":")
		e.attributes = map[string]string{name: value}
	case len(words) > 2:
		n, atoiErr := strconv.ParseUint(words[2], 10, 32)
		e.quantity, err = uint32(n), errors.Join(err, atoiErr)
	}
	return e, err
}

// parseLine reads "SKU@SELLER[NAME=VALUE,…]"; seller and options may be left out.
func parseLine(text string) (*cartv1.LineRef, error) {
	ref := &cartv1.LineRef{}
	name, options, ok := strings.Cut(text, "[")
	ref.SkuId, ref.SellerId, _ = strings.Cut(name, "@")
	if !ok {
		return ref, nil
	}
	if options, ok = strings.CutSuffix(options, "]"); !ok {
		return nil, fmt.Errorf("line %q: options end with ]", text)
	}
	ref.Options = make(map[string]string)
	for pair := range strings.SplitSeq(options, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("line %q: an option is NAME=VALUE", text)
		}
		ref.Options[key] = value
	}
	return ref, nil
}

// defaultSeller is who the catalogue means when nobody is named.
const defaultSeller = "seller-1"

// lineText is what parseLine reads.
func lineText(sku, seller string, options map[string]string) string {
	if seller != "" && seller != defaultSeller {
		sku += "@" + seller
	}
	if len(options) == 0 {
		return sku
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(options)) {
		pairs = append(pairs, name+"="+options[name])
	}
	return sku + "[" + strings.Join(pairs, ",") + "]"
}

func parseAmount(text string) (minor int64, err error) {
	whole, cents, ok := strings.Cut(text, ".")
	if ok && len(cents) == 2 {
		minor, err = strconv.ParseInt(whole+cents, 10, 64)
	}
	if !ok || len(cents) != 2 || err != nil {
		return 0, fmt.Errorf("amount %q: write it as 19.99", text)
	}
	return minor, nil
}

func amountText(m *cartv1.Money) string {
	return fmt.Sprintf("%d.%02d", m.GetMinorUnits()/100, m.GetMinorUnits()%100)
}

// named remembers a cart, to show it in the end.
func (st *stage) named(cart string) {
	if !slices.Contains(st.carts, cart) {
		st.carts = append(st.carts, cart)
	}
}

// door returns the client of a region, or of a node.
func (st *stage) door(at string) *door {
	st.mu.Lock()
	defer st.mu.Unlock()
	if d := st.doors[at]; d != nil {
		return d
	}
	nodes, err := st.nodesOf(at)
	if err != nil {
		panic("simulations: " + err.Error()) // the script was read
	}
	host := st.world.net.Host(hostOf(at) + "-shopper")
	d := &door{host: host, http: &http.Transport{
		// The first node that takes the connection, as of a load balancer that knows
		// no better: the same each time.
		DialContext: func(ctx context.Context, _, _ string) (c net.Conn, err error) {
			for _, n := range nodes {
				attempt, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
				c, err = host.Dial(attempt, hostOf(n.name)+":"+apiPort)
				cancel()
				if err == nil {
					return c, nil
				}
			}
			return nil, err
		},
		DisableKeepAlives: true,
	}}
	cfg := client.DefaultConfig()
	cfg.Transport, cfg.StreamTransport = d.http, d.http
	cfg.AttemptsMax, cfg.HedgeMax, cfg.AttemptTimeout = 1, 0, cfg.CallTimeout
	if d.client, err = client.New("http://"+hostOf(at)+":"+apiPort, cfg); err != nil {
		panic("simulations: " + err.Error()) // the address is ours
	}
	st.doors[at] = d
	return d
}

// call makes a call and returns what a transcript says of its answer.
func (st *stage) call(c call) string {
	d := st.door(c.at)
	s := d.client.Session(func(_ context.Context, h http.Header) error {
		h.Set("X-User-Id", c.cart)
		if c.price != "" {
			h.Set("X-Service-Scopes", "price")
		}
		return nil
	})
	device := c.cart + " " + c.device
	st.mu.Lock()
	st.named(c.cart)
	token := st.tokens[device]
	st.mu.Unlock()
	if c.device != "" && token != "" {
		if err := s.Observe(token); err != nil {
			panic(fmt.Sprintf("simulations: a session's own token: %v", err))
		}
	}
	var opts []client.Option
	if c.op != "" {
		opts = append(opts, client.OpID(c.op))
	}
	text, err := st.send(s, c, opts)
	var e *client.Error
	switch {
	case errors.As(err, &e) && e.Unknown:
		return refusedMark + e.Code + ", and may have been made"
	case errors.As(err, &e):
		return refusedMark + e.Code
	case err != nil:
		return refusedMark + err.Error()
	}
	if c.device != "" {
		st.mu.Lock()
		st.tokens[device] = s.Token()
		st.mu.Unlock()
	}
	return text
}

func (st *stage) send(s *client.Session, c call, opts []client.Option) (string, error) {
	switch c.verb {
	case "get":
		a, err := s.Get(st.ctx, opts...)
		return cartText(a.Msg, c.prices) + missingText(a.Stale, a.Msg.GetMissing()), err
	case "explain":
		a, err := s.Explain(st.ctx, opts...)
		return explainText(a.Msg), err
	case "share", "open", "revoke", "copy":
		return st.sendLink(s, c, opts)
	case "batch":
		req := &cartv1.BatchEditRequest{}
		for _, e := range c.edits {
			req.Edits = append(req.Edits, e.message())
		}
		a, err := s.Batch(st.ctx, req, opts...)
		texts := make([]string, len(a.Msg.GetResults()))
		for i, r := range a.Msg.GetResults() {
			texts[i] = itemText(c.edits[i].line, r)
		}
		return strings.Join(texts, "; ") + flagsText(a.Replayed, a.Stale), err
	case "add":
		req := &cartv1.AddItemRequest{Line: c.edits[0].line, Quantity: c.edits[0].quantity}
		if c.price != "" {
			minor, err := parseAmount(c.price)
			if err != nil {
				return "", err
			}
			req.Price = &cartv1.Money{Currency: "USD", MinorUnits: minor}
		}
		a, err := s.Add(st.ctx, req, opts...)
		return itemText(req.GetLine(), a.Msg) + flagsText(a.Replayed, a.Stale), err
	case "set":
		req := &cartv1.SetQuantityRequest{Line: c.edits[0].line, Quantity: c.edits[0].quantity}
		a, err := s.Set(st.ctx, req, opts...)
		return itemText(req.GetLine(), a.Msg) + flagsText(a.Replayed, a.Stale), err
	case "remove":
		a, err := s.Remove(st.ctx, &cartv1.RemoveItemRequest{Line: c.edits[0].line}, opts...)
		return fmt.Sprintf("%d items left", a.Msg.GetItemCount()) + flagsText(a.Replayed, a.Stale), err
	case "save":
		a, err := s.Save(st.ctx, &cartv1.SaveItemRequest{Line: c.edits[0].line}, opts...)
		return cartText(a.Msg, c.prices) + flagsText(a.Replayed, a.Stale), err
	case "move":
		a, err := s.Move(st.ctx, &cartv1.MoveItemRequest{Line: c.edits[0].line}, opts...)
		return cartText(a.Msg, c.prices) + flagsText(a.Replayed, a.Stale), err
	case "erase":
		a, err := s.Erase(st.ctx, opts...)
		return receiptsText(a.Msg) + flagsText(a.Replayed, a.Stale), err
	case "undo":
		a, err := s.Undo(st.ctx, opts...)
		return cartText(a.Msg, c.prices) + flagsText(a.Replayed, a.Stale), err
	case "describe":
		a, err := s.Describe(st.ctx, &cartv1.DescribeItemRequest{Line: c.edits[0].line, Attributes: c.edits[0].attributes}, opts...)
		return itemText(c.edits[0].line, a.Msg) + flagsText(a.Replayed, a.Stale), err
	default:
		a, err := s.Clear(st.ctx, opts...)
		return fmt.Sprintf("%d items left", a.Msg.GetItemCount()) + flagsText(a.Replayed, a.Stale), err
	}
}

// message is an edit as a batch has it.
func (e edit) message() *cartv1.Edit {
	switch e.verb {
	case "add":
		return &cartv1.Edit{Edit: &cartv1.Edit_Add{Add: &cartv1.AddItemRequest{Line: e.line, Quantity: e.quantity}}}
	case "set":
		return &cartv1.Edit{Edit: &cartv1.Edit_Set{Set: &cartv1.SetQuantityRequest{Line: e.line, Quantity: e.quantity}}}
	case "remove":
		return &cartv1.Edit{Edit: &cartv1.Edit_Remove{Remove: &cartv1.RemoveItemRequest{Line: e.line}}}
	case "save":
		return &cartv1.Edit{Edit: &cartv1.Edit_Save{Save: &cartv1.SaveItemRequest{Line: e.line}}}
	case "move":
		return &cartv1.Edit{Edit: &cartv1.Edit_Move{Move: &cartv1.MoveItemRequest{Line: e.line}}}
	case "describe":
		return &cartv1.Edit{Edit: &cartv1.Edit_Describe{Describe: &cartv1.DescribeItemRequest{Line: e.line, Attributes: e.attributes}}}
	default:
		return &cartv1.Edit{Edit: &cartv1.Edit_Clear{Clear: &cartv1.ClearCartRequest{}}}
	}
}

// --- what a transcript says ---

// show writes what all regions show of a cart: one line when it is the same.
func (st *stage) show(cart string) {
	of := ""
	if cart != defaultCart {
		of = ", cart of " + cart
	}
	var texts []string
	for r := range st.world.plan.Shape.Regions {
		texts = append(texts, st.call(call{at: regionNames[r], verb: "get", cart: cart}))
	}
	if len(slices.Compact(slices.Clone(texts))) == 1 {
		st.write("all regions%s: %s", of, texts[0])
		return
	}
	for r, text := range texts {
		st.write("%s%s: %s", regionNames[r], of, text)
	}
}

func cartText(c *cartv1.Cart, prices bool) string {
	text := linesText(c.GetItems(), prices)
	if len(c.GetSavedItems()) > 0 {
		text += ", saved " + linesText(c.GetSavedItems(), prices)
	}
	return text + conflictsText(c.GetConflicts())
}

func linesText(items []*cartv1.Item, prices bool) string {
	var lines []string
	for _, i := range items {
		text := fmt.Sprintf("%s: %d", lineText(i.GetSkuId(), i.GetSellerId(), i.GetOptions()), i.GetQuantity()) + attributesText(i)
		if prices {
			text += " at " + amountText(i.GetPriceAtAdd())
			if i.GetPriceChanged() {
				text += fmt.Sprintf(" (now sold at %s; %s counts)", amountText(i.GetCurrentPrice()), amountText(i.GetPrice()))
			}
		}
		lines = append(lines, text)
	}
	slices.Sort(lines)
	return "{" + strings.Join(lines, ", ") + "}"
}

// receiptsText says which regions have erased a cart.
func receiptsText(r *cartv1.EraseCartResponse) string {
	var out []string
	for _, e := range r.GetRegions() {
		text := e.GetRegion() + " erased"
		if !e.GetErased() {
			text = e.GetRegion() + " pending"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

// attributesText is what a describe has written.
func attributesText(i *cartv1.Item) (text string) {
	for _, name := range slices.Sorted(maps.Keys(i.GetAttributes())) {
		text += fmt.Sprintf(" (%s: %s)", name, i.GetAttributes()[name])
	}
	return text
}

func conflictsText(conflicts []*cartv1.Conflict) string {
	var b strings.Builder
	for _, c := range conflicts {
		fmt.Fprintf(&b, ", conflict: %s has %s %s of %s", lineText(c.GetSkuId(), c.GetSellerId(), nil), c.GetField(), c.GetValue(), strings.Join(c.GetValues(), " and "))
	}
	return b.String()
}

// itemText says what became of a line.
func itemText(line *cartv1.LineRef, r *cartv1.ItemResponse) string {
	if i := r.GetItem(); i != nil {
		return fmt.Sprintf("%s: %d", lineText(i.GetSkuId(), i.GetSellerId(), i.GetOptions()), i.GetQuantity()) + attributesText(i) + conflictsText(r.GetConflicts())
	}
	if line == nil {
		return "cleared"
	}
	return lineText(line.GetSkuId(), line.GetSellerId(), line.GetOptions()) + ": gone"
}

func flagsText(replayed, stale bool) (text string) {
	if replayed {
		text += ", replayed"
	}
	if stale {
		text += ", stale"
	}
	return text
}

func missingText(stale bool, missing []*cartv1.Missing) string {
	text := flagsText(false, stale)
	for _, m := range missing {
		text += fmt.Sprintf(", lacks %d of %s", m.GetEdits(), m.GetRegion())
	}
	return text
}

// explainText says of each field with what would be otherwise without the others
// which writes survive, and which count.
func explainText(x *cartv1.ExplainCartResponse) string {
	var out []string
	for _, l := range x.GetLines() {
		for _, f := range l.GetFields() {
			if f.GetField() == "placement" && !slices.ContainsFunc(f.GetWrites(), func(w *cartv1.ExplainedWrite) bool { return w.GetValue() != "cart" }) {
				continue // as most lines are
			}
			var writes []string
			for _, w := range f.GetWrites() {
				text := w.GetRegion() + " " + w.GetValue()
				if w.GetWins() {
					text += " (counts)"
				}
				writes = append(writes, text)
			}
			slices.Sort(writes)
			out = append(out, fmt.Sprintf("  %s %s %s: %s; %s", lineText(l.GetSkuId(), l.GetSellerId(), l.GetOptions()), f.GetField(), f.GetValue(), f.GetRule(), strings.Join(writes, ", ")))
		}
	}
	slices.Sort(out)
	if out == nil {
		return "nothing"
	}
	return "\n" + strings.Join(out, "\n")
}
