package shard

import (
	"errors"

	"github.com/samecart/samecart/crdt"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// setting writes a setting of the shop. The document that has the settings is a
// cart with facts and no lines: it replicates, and is repaired, as carts are.
func (w *workspace) setting(cart *crdt.Cart, writer crdt.Writer, c *regionv1.Change) []crdt.Delta {
	if v, ok := cart.Fact(crdt.FactSetting, c.FactId); ok && v.Pairs == c.Value {
		return nil
	}
	return []crdt.Delta{cart.SetFact(writer, crdt.FactSetting, c.FactId, c.Value)}
}

// settingBytesMax bounds a setting's name and its value.
const settingBytesMax = 1 << 10

func checkSetting(c *regionv1.Change) error {
	if n := len(c.GetFactId()); n < 1 || n > settingBytesMax || len(c.GetValue()) > settingBytesMax {
		return errors.New("a setting needs a name, and neither that nor its value may be long")
	}
	return nil
}
