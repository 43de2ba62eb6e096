package rpc

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

const restPrefix = "/api/v1/"

// eventPatience is how long a watcher may take to accept one event.
const eventPatience = 10 * time.Second

// rest is the cart as REST. Every call has its line in the table below.
type rest struct{ s *service }

// request is a REST request with the variables of its path.
type request struct {
	*http.Request

	path map[string]string // by the names in the pattern
	body []byte
}

type restRoute struct {
	method, pattern string
	access          access
	stream, body    bool
	serve           func(rest, http.ResponseWriter, *request) error
}

var restRoutes = []restRoute{
	{"POST", "cart/items", access{shopper: true}, false, true, rest.add},
	{"PUT", "cart/items/{sku_id}", access{shopper: true}, false, true, rest.set},
	{"DELETE", "cart/items/{sku_id}", access{shopper: true}, false, false, rest.remove},
	{"GET", "cart", access{shopper: true}, false, false, rest.cart},
	{"DELETE", "cart", access{shopper: true}, false, false, rest.clear},
	{"GET", "cart/count", access{shopper: true}, false, false, rest.count},
	{"GET", "cart/watch", access{shopper: true}, true, false, rest.watch},
	{"GET", "cart/explain", access{shopper: true}, false, false, rest.explain},
	{"POST", "cart/batch", access{shopper: true}, false, true, rest.batch},
	{"POST", "cart/promotions/{code}/redeem", access{shopper: true}, false, false, rest.redeem},
	{"GET", "regions", access{public: true}, false, false, rest.regions},
}

// find returns the route of a path, which is escaped: a SKU may have an
// escaped character, and never a slash.
func (h rest) find(method, path string) (*route, *Error) {
	got := strings.Split(path, "/")
	var allowed []string
	for _, rt := range restRoutes {
		vars, ok := rt.match(got)
		if !ok {
			continue
		}
		if rt.method != method {
			allowed = append(allowed, rt.method)
			continue
		}
		return &route{
			name: rt.method + " " + restPrefix + rt.pattern, access: rt.access, stream: rt.stream, body: rt.body,
			serve: func(w http.ResponseWriter, r *http.Request) error {
				req := &request{Request: r, path: vars}
				if rt.body {
					if err := req.readJSON(); err != nil {
						return err
					}
				}
				return rt.serve(h, w, req)
			},
		}, nil
	}
	if len(allowed) > 0 {
		e := fault(MethodNotAllowed, "%s is no method of %s%.100s: use %s", method, restPrefix, path, strings.Join(allowed, " or "))
		e.header = http.Header{"Allow": {strings.Join(allowed, ", ")}}
		return nil, e
	}
	return nil, fault(NotFound, "there is nothing at %s%.100s", restPrefix, path)
}

// match compares a path's segments with the pattern's, and returns those that
// stand for its {names}.
func (rt *restRoute) match(got []string) (vars map[string]string, ok bool) {
	i := 0
	for want := range strings.SplitSeq(rt.pattern, "/") {
		if i == len(got) {
			return nil, false
		}
		if name, found := strings.CutPrefix(want, "{"); found {
			v, err := url.PathUnescape(got[i])
			if err != nil || v == "" {
				return nil, false
			}
			if vars == nil {
				vars = map[string]string{}
			}
			vars[strings.TrimSuffix(name, "}")] = v
		} else if got[i] != want {
			return nil, false
		}
		i++
	}
	return vars, i == len(got)
}

// readJSON takes the body, which must say that it is JSON: a browser cannot
// send that to another site without asking it first.
func (r *request) readJSON() error {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || kind != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return fault(UnsupportedMediaType, "Content-Type %.100q is not read here: send application/json", r.Header.Get("Content-Type"))
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return fault(UnsupportedMediaType, "Content-Encoding %.100q is not read here: send the body as it is", encoding)
	}
	body, err := io.ReadAll(r.Body) // it was read, and bounded, before the call began
	if err != nil {
		return fmt.Errorf("read body: %w", err)
	}
	r.body = body
	return nil
}

// line returns the line that a path and its query name: seller_id, and
// option.NAME for each option.
func (r *request) line(kind regionv1.Change_Kind) (edit, error) {
	e := edit{kind: kind, sku: r.path["sku_id"]}
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return e, fault(InvalidField, "the query cannot be read: escape what is no letter or digit")
	}
	for name, v := range values {
		option, isOption := strings.CutPrefix(name, "option.")
		switch {
		case len(v) > 1:
			return e, fault(InvalidField, "query parameter %.80q was given %d times: give it once", name, len(v)).with("field", name)
		case name == "seller_id":
			e.seller = v[0]
		case isOption:
			if e.options == nil {
				e.options = map[string]string{}
			}
			e.options[option] = v[0]
		default:
			return e, fault(UnknownField, "query parameter %.80q is not known: there are seller_id and option.NAME", name)
		}
	}
	return e, nil
}

func (h rest) apply(w http.ResponseWriter, r *request, edits []edit, batch bool, body func(*applied) any) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	a, err := h.s.apply(r.Context(), c, edits, batch)
	if err != nil {
		return err
	}
	a.write(w.Header())
	return writeJSON(w, http.StatusOK, body(a))
}

func (h rest) add(w http.ResponseWriter, r *request) error {
	e, err := decodeAdd(r.body)
	if err != nil {
		return err
	}
	return h.apply(w, r, []edit{e}, false, lineAnswer)
}

func (h rest) set(w http.ResponseWriter, r *request) error {
	e, err := r.line(regionv1.Change_KIND_SET)
	if err != nil {
		return err
	}
	if err := decodeQuantity(r.body, &e); err != nil {
		return err
	}
	return h.apply(w, r, []edit{e}, false, lineAnswer)
}

func (h rest) remove(w http.ResponseWriter, r *request) error {
	e, err := r.line(regionv1.Change_KIND_REMOVE)
	if err != nil {
		return err
	}
	return h.apply(w, r, []edit{e}, false, countAnswer)
}

func (h rest) clear(w http.ResponseWriter, r *request) error {
	return h.apply(w, r, []edit{{kind: regionv1.Change_KIND_CLEAR}}, false, countAnswer)
}

func (h rest) batch(w http.ResponseWriter, r *request) error {
	edits, err := decodeBatch(r.body, h.s.checkBatch)
	if err != nil {
		return err
	}
	return h.apply(w, r, edits, true, batchAnswer)
}

func (h rest) cart(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	cart, m, err := h.s.cart(r.Context(), c)
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, cartJSONOf(cart))
}

func (h rest) count(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	n, m, err := h.s.count(r.Context(), c)
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, countJSON{ItemCount: n.GetItemCount(), Stale: n.GetStale()})
}

func (h rest) explain(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	x, m, err := h.s.explain(r.Context(), c)
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, explainJSONOf(x))
}

func (h rest) regions(w http.ResponseWriter, r *request) error {
	list := []RegionInfo{{Region: h.s.cfg.Region, Healthy: true}}
	if h.s.cfg.Regions != nil {
		list = h.s.cfg.Regions(r.Context())
	}
	return writeJSON(w, http.StatusOK, regionsJSONOf(list))
}

// watch sends server-sent events. An event's id is its resume token; it has
// no name, so that a browser's onmessage gets it.
//
// Source: WHATWG HTML, "Server-sent events".
func (h rest) watch(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	resume, err := singleHeader(r.Header, "Last-Event-ID")
	if err != nil {
		return err
	}
	ctl := http.NewResponseController(w)
	begun, unsent := false, false
	emit := func(format string, args ...any) error {
		if !begun {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("X-Accel-Buffering", "no") // else nginx holds events back
			begun = true
			format = "retry: 1000\n\n" + format
		}
		// A watcher that takes nothing must not hold its stream for ever.
		// A writer that knows no deadlines is a test's.
		ctl.SetWriteDeadline(time.Now().Add(eventPatience)) //nolint:errcheck // see above
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			unsent = true
			return fmt.Errorf("send event: %w", err)
		}
		return ctl.Flush()
	}
	err = h.s.watch(r.Context(), c, resume, func(cart *cartv1.Cart, id string) error {
		data, err := json.Marshal(cartJSONOf(cart))
		if err != nil {
			return fmt.Errorf("encode cart: %w", err)
		}
		return emit("id: %s\ndata: %s\n\n", id, data)
	}, func() error { return emit(": still here\n\n") })
	if err == nil || !begun || unsent {
		return err
	}
	// The answer has begun: the error is an event, and the client resumes.
	e := explainError(r.Context(), h.s.log, err)
	noteCode(r.Context(), e.Code)
	if data, err := json.Marshal(errorJSONOf(e)); err == nil {
		return unlessEnded(r.Context(), emit("event: failed\ndata: %s\n\n", data))
	}
	return nil
}

// writeJSON answers with a JSON body.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) //nolint:errcheck // the caller left: nobody is there to tell
	return nil
}

// writeError answers with an error's JSON form.
func writeError(w http.ResponseWriter, e *Error) {
	for k, v := range e.headers() {
		w.Header()[k] = v
	}
	// An Error holds strings alone: it always has a JSON form.
	writeJSON(w, e.Status(), errorJSONOf(e)) //nolint:errcheck // see above
}

func cartServiceMethods() protoreflect.MethodDescriptors {
	return cartv1.File_cart_v1_cart_proto.Services().ByName("CartService").Methods()
}
