package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"

	"github.com/samecart/samecart/crdt"
	cartv1 "github.com/samecart/samecart/proto/cart/v1"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
	"github.com/samecart/samecart/region"
)

// attributeValueMax is the size of one attribute in bytes: a gift note is a few
// sentences. All of a line's together are bounded as options are.
const attributeValueMax = optionsBytesMax

// batchEdits names the edits of a batch.
const batchEdits = "add, set, remove, clear, save, move and describe"

func saveEdit(r *cartv1.SaveItemRequest) edit {
	return lineEdit(regionv1.Change_KIND_SAVE, r.GetLine(), 0)
}

func moveEdit(r *cartv1.MoveItemRequest) edit {
	return lineEdit(regionv1.Change_KIND_MOVE, r.GetLine(), 0)
}

func describeEdit(r *cartv1.DescribeItemRequest) edit {
	e := lineEdit(regionv1.Change_KIND_DESCRIBE, r.GetLine(), 0)
	e.attributes, e.hasAttributes = r.GetAttributes(), true
	return e
}

// with is the edit with attributes, if there are any: in a message, none and an
// empty map are the same.
func (e edit) with(attributes map[string]string) edit {
	e.attributes, e.hasAttributes = attributes, len(attributes) > 0
	return e
}

func (e *edit) validateAttributes() error {
	if e.hasAttributes && e.kind == regionv1.Change_KIND_SET && e.quantity == 0 {
		return fault(InvalidField, "attributes are of no use to a line that quantity 0 removes: leave one of the two out").with("field", "attributes")
	}
	return validatePairs("attribute", e.attributes, attributeValueMax, isNote)
}

// isNote reports whether s is UTF-8 text, which may have several lines.
func isNote(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\r' && r != '\t' }) < 0
}

// describes puts the attributes of an edit into its change.
func (e *edit) describes(change *regionv1.Change) {
	if e.hasAttributes {
		pairs := crdt.CanonicalPairs(e.attributes)
		change.Attributes = &pairs
	}
}

// attributes reads an object of strings.
func attributes(e *edit) func(json.RawMessage) error {
	return func(v json.RawMessage) error {
		if err := json.Unmarshal(v, &e.attributes); err != nil {
			return fault(InvalidField, "attributes must be an object of strings").with("field", "attributes")
		}
		e.hasAttributes = true
		return nil
	}
}

// applyForCart makes one edit and answers with the cart, which has it.
func (s *service) applyForCart(ctx context.Context, c call, e edit) (*cartv1.Cart, meta, error) {
	a, err := s.apply(ctx, c, []edit{e}, false)
	if err != nil {
		return nil, meta{}, err
	}
	v, err := s.region.Read(ctx, c.cartID, region.ReadOptions{Context: a.context, HasToken: true})
	if err != nil {
		// The edit was made. A retry with its key finds that out, and reads again.
		return nil, meta{}, fmt.Errorf("read the cart after an edit: %w: %w", region.ErrOutcomeUnknown, err)
	}
	m := metaOf(v)
	m.replayed, m.missing = a.replayed, a.missing
	cart := s.render(ctx, v)
	cart.Stale = cart.Stale || a.stale
	return cart, m, nil
}

func (h cartServer) forCart(ctx context.Context, header http.Header, e edit) (*connect.Response[cartv1.Cart], error) {
	return reading(ctx, header, func(ctx context.Context, c call) (*cartv1.Cart, meta, error) { return h.s.applyForCart(ctx, c, e) })
}

// Undo implements cartv1connect.CartServiceHandler.
func (h cartServer) Undo(ctx context.Context, req *connect.Request[cartv1.UndoRequest]) (*connect.Response[cartv1.Cart], error) {
	return h.forCart(ctx, req.Header(), edit{kind: regionv1.Change_KIND_UNDO})
}

// SaveItem implements cartv1connect.CartServiceHandler.
func (h cartServer) SaveItem(ctx context.Context, req *connect.Request[cartv1.SaveItemRequest]) (*connect.Response[cartv1.Cart], error) {
	return h.forCart(ctx, req.Header(), saveEdit(req.Msg))
}

// MoveItem implements cartv1connect.CartServiceHandler.
func (h cartServer) MoveItem(ctx context.Context, req *connect.Request[cartv1.MoveItemRequest]) (*connect.Response[cartv1.Cart], error) {
	return h.forCart(ctx, req.Header(), moveEdit(req.Msg))
}

// DescribeItem implements cartv1connect.CartServiceHandler.
func (h cartServer) DescribeItem(ctx context.Context, req *connect.Request[cartv1.DescribeItemRequest]) (*connect.Response[cartv1.ItemResponse], error) {
	a, err := h.one(ctx, req.Header(), describeEdit(req.Msg))
	if err != nil {
		return nil, err
	}
	return answer(a.results[0], a.meta), nil
}

// applyForCart makes one edit and answers with the cart.
func (h rest) applyForCart(w http.ResponseWriter, r *request, e edit) error {
	c, err := newCall(r.Context(), r.Header)
	if err != nil {
		return err
	}
	cart, m, err := h.s.applyForCart(r.Context(), c, e)
	if err != nil {
		return err
	}
	m.write(w.Header())
	return writeJSON(w, http.StatusOK, cartJSONOf(cart))
}

func (h rest) save(w http.ResponseWriter, r *request) error {
	e, err := r.line(regionv1.Change_KIND_SAVE)
	if err != nil {
		return err
	}
	return h.applyForCart(w, r, e)
}

func (h rest) move(w http.ResponseWriter, r *request) error {
	e, err := r.line(regionv1.Change_KIND_MOVE)
	if err != nil {
		return err
	}
	return h.applyForCart(w, r, e)
}

func (h rest) undo(w http.ResponseWriter, r *request) error {
	return h.applyForCart(w, r, edit{kind: regionv1.Change_KIND_UNDO})
}
