package rpc

// RESTRoutes names every REST route, for the tests that must try all.
func RESTRoutes() []string {
	out := make([]string, len(restRoutes))
	for i, rt := range restRoutes {
		out[i] = rt.method + " " + restPrefix + rt.pattern
	}
	return out
}

// PageBytes is how much memory the encoded pages of carts take.
func (h *Handler) PageBytes() (pages, bytes int) {
	p := h.service.pages
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lru.Len(), p.bytes
}

// Watched is how many carts are watched, and how many lines of them are looked
// for when a product changes.
func (h *Handler) Watched() (carts, lines int) {
	fs := h.service.feeds
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, set := range fs.byProduct {
		lines += len(set)
	}
	return len(fs.byCart), lines
}
