package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/samecart/samecart/rpc"
)

// tokenCmd signs a token.
type tokenCmd struct {
	Key    string        `help:"Private key, PEM in PKCS #8 form: Ed25519, P-256 or RSA." required:"" placeholder:"FILE"`
	User   string        `help:"User that the token is for." placeholder:"ID"`
	Guest  string        `help:"Guest session that the token is for." placeholder:"ID"`
	Scopes []string      `help:"Scopes: price, admin. Without a shopper the token is a service's." placeholder:"SCOPE,…"`
	TTL    time.Duration `name:"ttl" help:"How long the token holds." default:"1h"`
}

// serviceName is the subject of a service's token.
const serviceName = "cartctl"

// Run prints the token.
func (c *tokenCmd) Run(a *app) error {
	p := rpc.Principal{Kind: rpc.Service, ID: serviceName, Scopes: c.Scopes}
	switch {
	case c.User != "" && c.Guest != "":
		return usageError{errors.New("--user and --guest are two shoppers: give one")}
	case c.User != "":
		p.Kind, p.ID = rpc.User, c.User
	case c.Guest != "":
		p.Kind, p.ID = rpc.Guest, c.Guest
	case len(c.Scopes) == 0:
		return usageError{errors.New("whose token? give --user, --guest or --scopes")}
	}
	for _, scope := range c.Scopes {
		if known := []string{rpc.ScopePrice, rpc.ScopeAdmin}; !slices.Contains(known, scope) {
			return usageError{fmt.Errorf("scope %q is unknown: there are %s", scope, strings.Join(known, ", "))}
		}
	}
	if c.TTL <= 0 {
		return usageError{fmt.Errorf("--ttl %v: a token must hold for some time", c.TTL)}
	}
	key, err := os.ReadFile(c.Key)
	if err != nil {
		return usageError{fmt.Errorf("read the signing key: %w", err)}
	}
	now := time.Now()
	token, err := rpc.SignToken(key, p, now, c.TTL)
	if err != nil {
		return fmt.Errorf("sign with %s: %w", c.Key, err)
	}
	object := map[string]any{
		"token": token, "kind": p.Kind, "id": p.ID, "scopes": append([]string{}, p.Scopes...),
		"expires_at": now.Add(c.TTL).UTC().Format(time.RFC3339),
	}
	return a.print(object, func(w *tabwriter.Writer) { row(w, token) })
}
