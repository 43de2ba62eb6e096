package client

import (
	"net/http/httptest"
	"testing"
)

// Events name a call by its pattern where its path is a secret.
func TestEventsDoNotNameShareTokens(t *testing.T) {
	for path, want := range map[string]string{
		"/api/v1/shared/secret":             "/api/v1/shared/{token}",
		"/api/v1/shared/secret/copy":        "/api/v1/shared/{token}/copy",
		"/api/v1/shared/":                   "/api/v1/shared/{token}",
		"/api/v1/cart/items/SKU-1":          "/api/v1/cart/items/SKU-1",
		"/cart.v1.CartService/GetShared":    "/cart.v1.CartService/GetShared",
		"/api/v1/cart/share/0123456789abcd": "/api/v1/cart/share/0123456789abcd",
	} {
		if got := procedureOf(httptest.NewRequest("GET", path, nil)); got != want {
			t.Errorf("%s is named %s, want %s", path, got, want)
		}
	}
}
