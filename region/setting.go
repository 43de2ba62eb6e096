package region

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// SettingsID is the id of the document that has the shop's settings. It is kept as
// a cart without lines: it replicates as carts do, and of two settings at the same
// time the later counts in every region.
const SettingsID = "shop:settings"

// SettingMergeRule names the setting that says what becomes of a line that a guest
// and a user both hold, when the guest's cart is merged: see crdt.MergeRule.
const SettingMergeRule = "merge-rule"

// Setting is one setting of the shop.
type Setting struct {
	Name, Value string
	Values      []string // that it may have; the first is the default
}

// ErrSetting is wrapped when there is no such setting, or it has no such value.
var ErrSetting = errors.New("no setting of the shop")

// knownSettings are the settings with their defaults.
func knownSettings() []Setting {
	rules := crdt.MergeRules()
	return []Setting{{Name: SettingMergeRule, Value: rules[0], Values: rules}}
}

// settingsFresh is how long settings are not read again: a change takes as long to
// be in force everywhere in a region.
const settingsFresh = 2 * time.Second

// settingsCache is the settings as they were read last.
type settingsCache struct {
	mu   sync.Mutex // guards what follows
	cart *crdt.Cart // nil: never read
	at   time.Time
}

// settings returns the document, at most settingsFresh old; an older one while the
// region cannot read it.
func (r *Router) settings(ctx context.Context) (*crdt.Cart, error) {
	c := &r.known
	c.mu.Lock()
	cart, fresh := c.cart, time.Since(c.at) < settingsFresh
	c.mu.Unlock()
	if cart != nil && fresh {
		return cart, nil
	}
	v, err := r.Read(ctx, SettingsID, ReadOptions{})
	if err != nil {
		if cart != nil {
			return cart, nil
		}
		return nil, fmt.Errorf("read settings: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cart, c.at = v.State.Cart, time.Now()
	return c.cart, nil
}

// Settings returns all settings of the shop, as this region has them.
func (r *Router) Settings(ctx context.Context) ([]Setting, error) {
	cart, err := r.settings(ctx)
	if err != nil {
		return nil, err
	}
	out := knownSettings()
	for i, s := range out {
		if v, ok := cart.Fact(crdt.FactSetting, s.Name); ok {
			out[i].Value = crdt.Pairs(v.Pairs)[settingValue]
		}
	}
	return out, nil
}

// settingValue is the name of a setting's value in its fact.
const settingValue = "value"

// MergeRule returns the shop's rule for merging guests' carts.
func (r *Router) MergeRule(ctx context.Context) (crdt.MergeRule, error) {
	all, err := r.Settings(ctx)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(all, func(s Setting) bool { return s.Name == SettingMergeRule })
	rule, ok := crdt.ParseMergeRule(all[i].Value)
	if !ok {
		return 0, fmt.Errorf("%w: merge rule %q is not known here; install the version that set it", ErrSetting, all[i].Value)
	}
	return rule, nil
}

// SetSetting changes a setting of the shop; the other regions follow. Errors wrap
// ErrSetting, or are those of Edit.
func (r *Router) SetSetting(ctx context.Context, name, value string) error {
	all := knownSettings()
	i := slices.IndexFunc(all, func(s Setting) bool { return s.Name == name })
	switch {
	case i < 0:
		names := make([]string, len(all))
		for j, s := range all {
			names[j] = s.Name
		}
		return fmt.Errorf("%w: %.100q; there is %s", ErrSetting, name, strings.Join(names, ", "))
	case !slices.Contains(all[i].Values, value):
		return fmt.Errorf("%w: %s cannot be %.100q; give %s", ErrSetting, name, value, strings.Join(all[i].Values, ", "))
	}
	op := make([]byte, len(crdt.OpID{}))
	rand.Read(op) // it never fails: it ends the process instead
	out, err := r.Edit(ctx, &regionv1.Edit{CartId: SettingsID, OpId: op, Changes: []*regionv1.Change{{
		Kind: regionv1.Change_KIND_SETTING, FactId: name, Value: crdt.CanonicalPairs(map[string]string{settingValue: value}),
	}}})
	if err != nil {
		return fmt.Errorf("set %s: %w", name, err)
	}
	if out.Code != regionv1.Outcome_CODE_OK {
		return fmt.Errorf("set %s: %v", name, out.Code)
	}
	r.known.mu.Lock()
	defer r.known.mu.Unlock()
	r.known.at = time.Time{}
	return nil
}
