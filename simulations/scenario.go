package simulations

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
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
	case "rule": // of merging guests' carts
		return st.rule(args)
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
