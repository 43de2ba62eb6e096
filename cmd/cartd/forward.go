package main

import (
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/samecart/samecart/rpc/client"
)

// forwarder stands before a gateway's own handler and passes calls on to other
// regions while its own does not serve. It is nil when there are none, or
// when that is not wanted.
func (s *server) forwarder(own http.Handler) (*client.Forwarder, error) {
	others := make(map[string]string)
	for name, addr := range s.conf.Addresses {
		if name != s.conf.Region {
			others[name] = addr
		}
	}
	if !s.forward || len(others) == 0 {
		return nil, nil
	}
	f, err := client.NewForwarder(client.Home{Region: s.conf.Region, Handler: own, Ready: s.router.Ready}, others, s.forwardConfig())
	if err != nil {
		return nil, fmt.Errorf("--addresses: %w", err)
	}
	return f, nil
}

func (s *server) forwardConfig() client.Config {
	cfg := client.DefaultConfig()
	// Half of it is for the first region, which refuses by itself in time.
	cfg.CallTimeout = max(5*time.Second, 5*s.conf.RequestTimeout/2)
	cfg.Events = client.Events{
		Moved: func(m client.Moved) {
			if m.To == s.conf.Region {
				s.log.Info("calls are served by this region again", slog.String("from", m.From))
				return
			}
			s.log.Info("calls are passed on to another region", slog.String("peer", m.To), slog.String("from", m.From), slog.String("why", string(m.Why)))
		},
		Health: func(h client.Health) {
			if h.Healthy {
				s.log.Info("region is healthy again", slog.String("peer", h.Region), slog.Duration("rtt", h.RTT))
				return
			}
			s.log.Info("region is not healthy", slog.String("peer", h.Region), slog.String("why", h.Why))
		},
		Retried: func(r client.Retried) {
			s.log.Debug("call is passed on after a failure", slog.String("peer", r.To), slog.String("from", r.From), slog.Any("err", r.Why))
		},
		Forwarded: func(f client.Forwarded) {
			s.metrics.forwarded.WithLabelValues(s.conf.Region, f.Region, fmt.Sprint(f.Status)).Inc()
		},
	}
	return cfg
}
