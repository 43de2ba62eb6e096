package region

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region/link"
	"github.com/samecart/samecart/region/shard"
)

// form returns once the node knows that its region exists, and who its first
// members were. A node with a new directory asks the others: when one knows
// of the region, this one joins it; only when every node of the configuration
// answers that it knows of none does the first of them form it. So a node that
// lost its disk never forms a second region beside the one it was in, and one
// that cannot reach the others waits. Nodes that all lost their disks could; that
// is for MayForm to find.
//
//	B1  A group starts from the first members, on those nodes only which still
//	    have the server id that they had then: each makes the same first entry,
//	    and one that lost its disk makes none.
func (n *Node) form(ctx context.Context) error {
	nodes := n.Router.cfg.Nodes
	mayForm, formAs := n.cfg.MayForm, n.id.Incarnation
	for tries := 0; ; tries++ {
		select {
		case <-n.formed:
			return nil
		default:
		}
		servers := map[string]string{n.cfg.Node: n.id.ServerID}
		formed := false
		for _, node := range nodes {
			if node == n.cfg.Node {
				continue
			}
			resp, err := n.askFormed(ctx, node)
			if err == nil && resp.Formed {
				formed = true
				var first map[string]string
				if first, err = n.askFirst(ctx, node); err == nil {
					return n.setFormed(first, resp.Incarnation)
				}
			}
			if err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if tries%50 == 10 {
					n.log.Info("waits for the region's other nodes", slog.String("peer", node), slog.Any("err", err))
				}
				continue
			}
			servers[node] = resp.ServerId
		}
		if !formed && len(servers) == len(nodes) && nodes[0] == n.cfg.Node {
			if mayForm != nil {
				incarnation, err := mayForm(ctx)
				if err != nil {
					return err
				}
				formAs = max(formAs, incarnation)
				mayForm = nil
				continue // that took its time: the nodes may be others by now
			}
			n.log.Info("forms the region", slog.Uint64("incarnation", uint64(formAs)))
			return n.setFormed(servers, formAs)
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return ctx.Err()
		}
	}
}

// askFirst asks a node that knows of the region for its first members.
func (n *Node) askFirst(ctx context.Context, from string) (map[string]string, error) {
	first := make(map[string]string)
	for _, node := range n.Router.cfg.Nodes {
		resp, err := n.askForm(ctx, from, kindFirst, &regionv1.FormRequest{Node: node})
		if err != nil {
			return nil, err
		}
		if resp.ServerId != "" { // else a node that came later
			first[node] = resp.ServerId
		}
	}
	return first, nil
}

func (n *Node) askFormed(ctx context.Context, node string) (*regionv1.FormResponse, error) {
	return n.askForm(ctx, node, kindForm, &regionv1.FormRequest{
		Node: n.cfg.Node, ServerId: n.id.ServerID, Shards: n.id.Shards, RegionId: uint32(n.id.RegionID), Incarnation: n.id.Incarnation,
	})
}

func (r *Router) askForm(ctx context.Context, node string, kind link.Kind, req *regionv1.FormRequest) (*regionv1.FormResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Attempt)
	defer cancel()
	payload, err := proto.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	b, err := r.mux.Call(ctx, node, kind, payload)
	if err != nil {
		return nil, err
	}
	var resp regionv1.FormResponse
	if err := proto.Unmarshal(b, &resp); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return &resp, nil
}

// setFormed records, before anything is done about it, that the region
// exists, its first members, and its incarnation: of a region that exists, the
// configuration may name an older one.
func (n *Node) setFormed(servers map[string]string, incarnation uint32) error {
	n.idMu.Lock()
	defer n.idMu.Unlock()
	id := n.id
	id.Formed, id.Servers, id.Incarnation = true, servers, incarnation
	if err := id.save(n.cfg.Dir, n.cfg.Machine.Steps); err != nil {
		return err
	}
	n.id = id
	n.incarnation.Store(incarnation)
	close(n.formed)
	return nil
}

// onForm answers a node that asks whether the region exists.
func (n *Node) onForm(_ context.Context, from string, payload []byte) ([]byte, error) {
	var req regionv1.FormRequest
	if err := proto.Unmarshal(payload, &req); err != nil {
		return nil, fmt.Errorf("decode request: %w", err)
	}
	n.idMu.Lock()
	id := n.id
	n.idMu.Unlock()
	if req.Shards != id.Shards || req.RegionId != uint32(id.RegionID) {
		n.log.Error("node has another configuration", slog.String("peer", from),
			slog.Uint64("shards", uint64(req.Shards)), slog.Uint64("region_id", uint64(req.RegionId)))
		return nil, fmt.Errorf("node %s is configured for region id %d with %d shards, %s for %d with %d",
			from, req.RegionId, req.Shards, id.Node, id.RegionID, id.Shards)
	}
	if req.ServerId != "" && !id.Formed && req.Incarnation != id.Incarnation {
		n.log.Error("node has another configuration", slog.String("peer", from), slog.Uint64("incarnation", uint64(req.Incarnation)))
		return nil, fmt.Errorf("node %s is configured for incarnation %d, %s for %d", from, req.Incarnation, id.Node, id.Incarnation)
	}
	return proto.Marshal(&regionv1.FormResponse{Formed: id.Formed, ServerId: id.ServerID, Incarnation: id.Incarnation})
}

// onFirst answers with the server id that a node had when the region was
// formed.
func (n *Node) onFirst(_ context.Context, _ string, payload []byte) ([]byte, error) {
	var req regionv1.FormRequest
	if err := proto.Unmarshal(payload, &req); err != nil {
		return nil, fmt.Errorf("decode request: %w", err)
	}
	n.idMu.Lock()
	id := n.id.Servers[req.Node] // the map is never changed
	n.idMu.Unlock()
	return proto.Marshal(&regionv1.FormResponse{ServerId: id})
}

// admit asks the shard's leader to take this node in; voter says that it has
// its vote.
func (n *Node) admit(ctx context.Context, s *shard.Shard) (voter bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	payload, err := proto.Marshal(&regionv1.AdmitRequest{
		Shard: s.ID(), Node: n.cfg.Node, ServerId: n.id.ServerID, Applied: s.Marker().Applied,
	})
	if err != nil {
		return false, err
	}
	b, err := n.atLeader(ctx, request{shard: s.ID(), kind: kindAdmit, payload: payload, harmless: true})
	if err != nil {
		return false, err
	}
	var resp regionv1.AdmitResponse
	if err := proto.Unmarshal(b, &resp); err != nil {
		return false, fmt.Errorf("decode answer: %w", err)
	}
	return resp.Voter, nil
}

// onAdmit answers a node that asks to be taken into a group.
func (n *Node) onAdmit(_ context.Context, from string, payload []byte) ([]byte, error) {
	var req regionv1.AdmitRequest
	if err := proto.Unmarshal(payload, &req); err != nil {
		return nil, fmt.Errorf("decode request: %w", err)
	}
	if req.Node != from {
		return nil, fmt.Errorf("node %s asks for %s", from, req.Node)
	}
	s, err := n.shard(req.Shard)
	if err != nil {
		return nil, err
	}
	voter, err := s.Admit(raft.ServerID(req.ServerId), req.Node, req.Applied)
	if err != nil {
		return nil, crossing(err)
	}
	return proto.Marshal(&regionv1.AdmitResponse{Voter: voter})
}
