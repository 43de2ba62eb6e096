package simulations

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/samecart/samecart/region"
	"github.com/samecart/samecart/simulations/network"
)

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

// rule changes the shop's rule for merging guests' carts, in all regions.
func (st *stage) rule(args []string) error {
	if len(args) != 1 {
		return errors.New("rule wants max, sum or latest")
	}
	p := st.world.anyOf(regionNames[0])
	if p == nil {
		return errNobody
	}
	if err := p.member.Node.SetSetting(st.ctx, region.SettingMergeRule, args[0]); err != nil {
		return err
	}
	st.settle(nil)
	time.Sleep(3 * time.Second) // regions do not read settings again for two
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
