package rpc

// RESTRoutes names every REST route, for the tests that must try all.
func RESTRoutes() []string {
	out := make([]string, len(restRoutes))
	for i, rt := range restRoutes {
		out[i] = rt.method + " " + restPrefix + rt.pattern
	}
	return out
}
