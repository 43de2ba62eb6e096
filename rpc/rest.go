package rpc

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

const restPrefix = "/api/v1/"

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
	{"POST", "cart/items/{sku_id}/save", access{shopper: true}, false, false, rest.save},
	{"POST", "cart/saved/{sku_id}/move", access{shopper: true}, false, false, rest.move},
	{"POST", "cart/undo", access{shopper: true}, false, false, rest.undo},
	{"GET", "me/export", access{shopper: true}, false, false, rest.export},
	{"DELETE", "me", access{shopper: true}, false, false, rest.erase},
	{"POST", "cart/batch", access{shopper: true}, false, true, rest.batch},
	{"POST", "guest-sessions", access{public: true}, false, false, rest.newGuest},
	{"POST", "cart/merge", access{shopper: true}, false, true, rest.merge},
	{"GET", "cart/shipping", access{shopper: true}, false, false, rest.shipping},
	{"POST", "cart/promotions", access{shopper: true}, false, true, rest.addCode},
	{"DELETE", "cart/promotions/{code}", access{shopper: true}, false, false, rest.dropCode},
	{"POST", "cart/share", access{shopper: true}, false, true, rest.share},
	{"DELETE", "cart/share/{id}", access{shopper: true}, false, false, rest.revokeShare},
	{"GET", "shared/{token}", access{public: true}, false, false, rest.shared},
	{"POST", "shared/{token}/copy", access{shopper: true}, false, false, rest.copyShared},
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
	if strings.HasPrefix(path, "shared/") {
		path = "shared/…" // a token is repeated nowhere
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

// watch sends server-sent events.
func (h rest) watch(w http.ResponseWriter, r *request) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	resume, err := singleHeader(r.Header, "Last-Event-ID")
	if err != nil {
		return err
	}
	to := &eventStream{patient: patient{http.NewResponseController(w), h.s.cfg.Patience}, w: w}
	err = h.s.watch(r.Context(), c, resume, to)
	if err == nil || !to.begun {
		return err
	}
	// The answer has begun: the error is an event, and the client resumes.
	e := explainError(r.Context(), h.s.log, err)
	noteCode(r.Context(), e.Code)
	if to.broken {
		return err
	}
	if data, err := json.Marshal(errorJSONOf(e)); err == nil {
		return unlessEnded(r.Context(), to.emit(fmt.Appendf(nil, "event: failed\ndata: %s\n\n", data)))
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
