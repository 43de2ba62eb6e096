package member

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/samecart/samecart/rpc"
)

// routes makes the ways to the other regions: to each the direct one and, for
// when that fails, through each of the others.
func routes(clients map[string]*rpc.PeerClient, log *slog.Logger) (map[string]*rpc.Route, error) {
	out := make(map[string]*rpc.Route, len(clients))
	for _, to := range slices.Sorted(maps.Keys(clients)) {
		var relays []rpc.Relay
		for _, via := range slices.Sorted(maps.Keys(clients)) {
			if via == to {
				continue
			}
			way, err := clients[via].Through(to)
			if err != nil {
				return nil, fmt.Errorf("way to %s through %s: %w", to, via, err)
			}
			relays = append(relays, rpc.Relay{Region: via, Way: way})
		}
		log := log.With(slog.String("peer", to))
		route, err := rpc.NewRoute(clients[to], relays, rpc.DefaultRouteConfig(), func(via string) {
			if via == "" {
				log.Info("the peer is reached directly")
				return
			}
			log.Info("the peer is reached through another region", slog.String("via", via))
		})
		if err != nil {
			return nil, err
		}
		out[to] = route
	}
	return out, nil
}
