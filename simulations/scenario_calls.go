package simulations

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	"github.com/samecart/samecart/rpc/client"
)

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
	link     link
	price    string
	prices   bool   // are shown
	guest    string // whose cart is merged
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
	case "merge":
		if len(words) != 1 {
			return c, errors.New("merge wants a guest, as in: merge tablet")
		}
		c.guest = words[0]
		return c, nil
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
			_, err = parseMoney(value)
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
		return e, fmt.Errorf("%v is none of: add LINE N, set LINE N, remove LINE, clear, save LINE, move LINE, describe LINE NAME:VALUE, undo, erase, batch EDIT; EDIT…, merge GUEST, get, explain, share MODE NAME, open NAME, revoke NAME, copy NAME", words)
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

// parseMoney reads an amount of dollars, or of what stands behind it: 5.00EUR.
func parseMoney(text string) (*cartv1.Money, error) {
	amount := strings.TrimRight(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
	m := &cartv1.Money{Currency: text[len(amount):]}
	if m.Currency == "" {
		m.Currency = "USD"
	}
	var err error
	m.MinorUnits, err = parseAmount(amount)
	return m, err
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
		if guest, ok := strings.CutPrefix(c.cart, guestsCarts); ok {
			h.Set("X-Guest-Session", guest)
		} else {
			h.Set("X-User-Id", c.cart)
		}
		if c.price != "" {
			h.Set("X-Service-Scopes", "price")
		}
		return nil
	})
	device := c.cart + " " + c.device
	st.mu.Lock()
	st.named(c.cart)
	token := st.tokens[device]
	if token == "" && c.verb == "merge" { // at the login it has seen the guest's cart alone
		token = st.tokens[guestsCarts+c.guest+" "+c.device]
	}
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
			var err error
			if req.Price, err = parseMoney(c.price); err != nil {
				return "", err
			}
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
	case "merge":
		a, err := s.Merge(st.ctx, &cartv1.MergeCartRequest{GuestSessionId: c.guest}, opts...)
		return mergeText(a.Msg) + flagsText(a.Replayed, a.Stale), err
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
