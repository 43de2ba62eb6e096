package store

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// marks are the marks of a space, read in pages of two.
func marksOf(t *testing.T, sp *Space) []string {
	t.Helper()
	var out []string
	for after := ""; ; {
		page, err := sp.MarkedGuests(after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page {
			out = append(out, fmt.Sprint(m.CartID, " ", m.Digest[0], " ", m.Gone))
			after = m.CartID
		}
		if len(page) < 2 {
			return out
		}
	}
}

func TestMarksOfGuests(t *testing.T) {
	s := newStore(t)
	sp := openSpace(t, s, 1)
	commit(t, sp, func(tx *Tx) {
		if tx.Marked() {
			t.Error("marked before anything was")
		}
		for i, id := range []string{"guest:a", "guest:b", "guest:c"} {
			tx.MarkGuest(id, Digest{byte(i + 1)})
		}
		tx.MarkGuest("guest:b", Digest{9}) // it changed again
		tx.MarkGone("guest:d", []string{"cart:u", "cart:v"})
		if err := tx.ForwardedGuest("guest:c", Digest{3}); err != nil || !tx.Marked() {
			t.Errorf("marked %v, %v", tx.Marked(), err)
		}
	})
	want := []string{"guest:a 1 []", "guest:b 9 []", "guest:d 0 [cart:u cart:v]"}
	if got := marksOf(t, sp); !slices.Equal(got, want) {
		t.Errorf("marks %q, want %q", got, want)
	}
	commit(t, sp, func(tx *Tx) {
		for id, d := range map[string]Digest{"guest:a": {1}, "guest:b": {2}, "guest:d": {}, "guest:e": {}} {
			if err := tx.ForwardedGuest(id, d); err != nil {
				t.Error(err)
			}
		}
	})
	if got := marksOf(t, sp); !slices.Equal(got, want[1:2]) {
		t.Errorf("marks %q, want the one that changed since", got)
	}
}

func TestMarksThatAreCorrupt(t *testing.T) {
	digest := make([]byte, 16)
	for _, b := range [][]byte{nil, digest[:15], append(slices.Clone(digest), 5, 'x'), append(slices.Clone(digest), 0x80)} {
		if _, err := decodeGuestMark("guest:g", b); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%x: %v", b, err)
		}
	}
}
