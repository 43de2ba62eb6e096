package store

import (
	"encoding/binary"

	"github.com/samecart/samecart/crdt"
)

// Every key in the database. Numbers are big-endian, so that keys sort as
// their numbers do.
//
//	pointer     00 shard                    → current generation
//	in a space  01 shard generation …
//	  marker      m                         → Marker
//	  cart        c slot id                 → Record
//	  rows        l chunk                   → a chunk of crdt.Row, see series
//	  op          o id 00 op                → number in ops, of some: see Asked
//	  ops         e chunk                   → a chunk of remembered
//	  outcome     r number in ops           → OpRecord.Outcome, of a large one
//	  cursor      u region incarnation shard → seq
//	  digests     d slot ÷ sumsLen          → sumsLen × Sum
//	  membership  p                         → membership.v1.Membership
//	  acceptor    a                         → what was promised and accepted for the next one
//	  floor       f slot                    → Floor
//	  marks       h                         → the clock marks, see Mark
//	  undo        n id                      → crdt.Removed, see Tx.Removed
//	  erased      x id                      → Erased, until it is scrubbed
//	  scrubbed    s                         → the newest index that scrubbed a cart
//	  due         t second id               → nothing, see Indexed
//	  kept        k chunk                   → a chunk of crdt.Row, see Space.Reborn
//	  guest       g id                      → GuestMark
const (
	topPointer byte = 0
	topSpace   byte = 1

	kindMarker  byte = 'm'
	kindCart    byte = 'c'
	kindRow     byte = 'l'
	kindOp      byte = 'o'
	kindOps     byte = 'e'
	kindOutcome byte = 'r'
	kindCursor  byte = 'u'
	kindDigest  byte = 'd'

	kindMembership byte = 'p'
	kindAcceptor   byte = 'a'
	kindKept       byte = 'k'
	kindFloor      byte = 'f'
	kindMarks      byte = 'h'
	kindUndo       byte = 'n'
	kindGuest      byte = 'g'
	kindErased     byte = 'x'
	kindScrubbed   byte = 's'
	kindDue        byte = 't'
)

func pointerKey(shard uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{topPointer}, shard)
}

func spacePrefix(shard, generation uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte{topSpace}, shard)
	return binary.BigEndian.AppendUint32(b, generation)
}

func (s *Space) key(kind byte, room int) []byte {
	b := make([]byte, 0, len(s.prefix)+1+room)
	b = append(b, s.prefix...)
	return append(b, kind)
}

func (s *Space) markerKey() []byte { return s.key(kindMarker, 0) }

func (s *Space) cartKey(slot uint32, id string) []byte {
	return append(s.slotKey(slot, len(id)), id...)
}

func (s *Space) slotKey(slot uint32, room int) []byte {
	return binary.BigEndian.AppendUint16(s.key(kindCart, 2+room), uint16(slot))
}

func (s *Space) opKey(id string, op crdt.OpID) []byte {
	return appendOpKey(s.key(kindOp, len(id)+1+len(op)), id, op)
}

func (s *Space) outcomeKey(n uint64) []byte {
	return binary.BigEndian.AppendUint64(s.key(kindOutcome, 8), n)
}

func appendOpKey(b []byte, id string, op crdt.OpID) []byte {
	return append(append(append(b, id...), 0), op[:]...)
}

func (s *Space) cursorKey(st crdt.Stream) []byte {
	b := binary.BigEndian.AppendUint16(s.key(kindCursor, 10), uint16(st.Region))
	b = binary.BigEndian.AppendUint32(b, st.Incarnation)
	return binary.BigEndian.AppendUint32(b, st.Shard)
}

// sumsLen is how many slots' digests share a key: an entry's commands change
// the digests of many slots, and a key costs more than a digest.
const sumsLen = 64

func (s *Space) digestKey(slot uint32) []byte {
	return binary.BigEndian.AppendUint16(s.key(kindDigest, 2), uint16(slot/sumsLen))
}
