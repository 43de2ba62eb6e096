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
