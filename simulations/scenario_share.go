package simulations

import (
	"fmt"
	"strconv"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc/client"
)

// link is a call of a script about a link, which has a name there: its token is
// another one each time.
type link struct {
	name, mode string
	seconds    uint64 // 0: not said
}

// parseLink reads "live NAME [SECONDS]" or "snapshot NAME [SECONDS]" for a share,
// and NAME for what is done with a link.
func parseLink(verb string, words []string) (l link, err error) {
	if verb != "share" {
		if len(words) != 1 {
			return l, fmt.Errorf("%s wants the name of a link", verb)
		}
		return link{name: words[0]}, nil
	}
	if len(words) < 2 || len(words) > 3 {
		return l, fmt.Errorf("%v is not: share live NAME, share snapshot NAME, with seconds after it", words)
	}
	l.mode, l.name = words[0], words[1]
	if len(words) == 3 {
		l.seconds, err = strconv.ParseUint(words[2], 10, 32)
	}
	return l, err
}

// sendLink makes a call about a link.
func (st *stage) sendLink(s *client.Session, c call, opts []client.Option) (string, error) {
	st.mu.Lock()
	known := st.links[c.link.name]
	st.mu.Unlock()
	switch c.verb {
	case "share":
		req := &cartv1.ShareCartRequest{Mode: c.link.mode}
		if c.link.seconds > 0 {
			req.ExpiresInS = &c.link.seconds
		}
		a, err := s.Share(st.ctx, req, opts...)
		if err != nil {
			return "", err
		}
		st.mu.Lock()
		defer st.mu.Unlock()
		st.links[c.link.name] = a.Msg
		return "shared" + flagsText(a.Replayed, a.Stale), nil
	case "open":
		a, err := s.Shared(st.ctx, known.GetToken(), opts...)
		return cartText(&cartv1.Cart{Items: a.Msg.GetItems()}, c.prices) + flagsText(false, a.Stale), err
	case "revoke":
		a, err := s.RevokeShare(st.ctx, known.GetId(), opts...)
		return "revoked" + flagsText(a.Replayed, a.Stale), err
	default:
		a, err := s.CopyShared(st.ctx, known.GetToken(), opts...)
		return cartText(a.Msg, c.prices) + flagsText(a.Replayed, a.Stale), err
	}
}
