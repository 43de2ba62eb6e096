package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Kinds of blobs. A blob is magic, kind, version, and a body packed by zstd:
//
//	carts  { id, state }, each behind its length
//	index  names of blobs; then slots: number, count, { id, digest, place of the blob among the names }
//
// Numbers are varints, and ids within a slot are in order.
const (
	kindCarts = 'c'
	kindIndex = 'i'
)

const magic = "smcb"

// blobBytes is what a blob is filled up to, and blobBytesMax what one may have
// unpacked: a blob is held in memory whole, and the largest cart has 3 MiB.
const (
	blobBytes    = 4 << 20
	blobBytesMax = 64 << 20
)

// entry is a cart in an index.
type entry struct {
	id     string
	digest Digest
	file   string // the blob that holds it
}

// slotEntries are the carts of one slot.
type slotEntries struct {
	slot    uint32
	entries []entry
}

// The options are right, so there is no error.
var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(blobBytesMax))
)

func seal(kind byte, body []byte) []byte {
	return packer.EncodeAll(body, append([]byte(magic), kind, format))
}

// errBlob is what is wrong with a blob that is none of ours.
var errBlob = errors.New("not a blob of this kind")

// unseal returns the body of a blob.
func unseal(kind byte, b []byte) ([]byte, error) {
	head := len(magic) + 2
	if len(b) < head || string(b[:len(magic)]) != magic || b[len(magic)] != kind {
		return nil, errBlob
	}
	if v := b[len(magic)+1]; v > format {
		return nil, fmt.Errorf("%w: it has %d, this version reads %d", ErrNewer, v, format)
	}
	body, err := unpacker.DecodeAll(b[head:], nil)
	if err != nil {
		return nil, fmt.Errorf("unpack: %w", err)
	}
	return body, nil
}

func appendBytes[T string | []byte](dst []byte, b T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// body reads a blob's body; after the first failure all that it reads is zero.
type body struct {
	b   []byte
	bad bool
}

func (r *body) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *body) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *body) bytes() []byte { return r.take(r.number()) }

func encodeCart(dst []byte, c Cart) []byte { return appendBytes(appendBytes(dst, c.ID), c.State) }

// decodeCarts returns the states of a blob of carts, by id. They are not
// looked into.
func decodeCarts(b []byte) (map[string][]byte, error) {
	content, err := unseal(kindCarts, b)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for r := (body{b: content}); len(r.b) > 0; {
		id, state := string(r.bytes()), r.bytes()
		if r.bad || out[id] != nil || len(state) == 0 {
			return nil, errBlob
		}
		out[id] = state
	}
	return out, nil
}

func encodeIndex(slots []slotEntries) []byte {
	places := map[string]uint64{}
	var names []string
	var list []byte
	for _, s := range slots {
		list = binary.AppendUvarint(list, uint64(s.slot))
		list = binary.AppendUvarint(list, uint64(len(s.entries)))
		for _, e := range s.entries {
			place, ok := places[e.file]
			if !ok {
				place = uint64(len(names))
				places[e.file], names = place, append(names, e.file)
			}
			list = append(appendBytes(list, e.id), e.digest[:]...)
			list = binary.AppendUvarint(list, place)
		}
	}
	out := binary.AppendUvarint(nil, uint64(len(names)))
	for _, name := range names {
		out = appendBytes(out, name)
	}
	return seal(kindIndex, append(out, list...))
}

// decodeIndex returns the slots of an index blob.
func decodeIndex(b []byte) (map[uint32][]entry, error) {
	content, err := unseal(kindIndex, b)
	if err != nil {
		return nil, err
	}
	r := body{b: content}
	var names []string
	for n := r.number(); n > 0 && !r.bad; n-- {
		names = append(names, string(r.bytes()))
	}
	out := map[uint32][]entry{}
	for len(r.b) > 0 {
		slot, entries := r.slot(names)
		if r.bad || slot >= Slots || out[uint32(slot)] != nil {
			return nil, errBlob
		}
		out[uint32(slot)] = entries
	}
	if r.bad {
		return nil, errBlob
	}
	return out, nil
}

func (r *body) slot(names []string) (slot uint64, entries []entry) {
	slot = r.number()
	n := r.number()
	r.bad = r.bad || n == 0
	for ; n > 0 && !r.bad; n-- {
		e := entry{id: string(r.bytes())}
		copy(e.digest[:], r.take(uint64(len(e.digest))))
		place := r.number()
		if r.bad || place >= uint64(len(names)) || len(entries) > 0 && entries[len(entries)-1].id >= e.id {
			r.bad = true
			return slot, nil
		}
		e.file = names[place]
		entries = append(entries, e)
	}
	return slot, entries
}

// writer fills blobs and writes each when it is full.
type writer struct {
	b     Bucket
	dir   string
	fill  int // bytes that a blob is filled up to
	files []file
	bytes int64

	carts     []byte // body of the blob being filled
	cartsName string
	index     []slotEntries
	indexSize int
	indexName string
	named     int
}

func newWriter(b Bucket, id string, fill int) *writer {
	return &writer{b: b, dir: data + id + "/", fill: fill}
}

func (w *writer) name(kind string) string {
	w.named++
	return fmt.Sprintf("%s%06d.%s", w.dir, w.named, kind)
}

// cart puts a cart into a blob and returns the blob's name.
func (w *writer) cart(ctx context.Context, c Cart) (string, error) {
	if len(w.carts) > 0 && len(w.carts)+len(c.ID)+len(c.State) > w.fill {
		if err := w.flushCarts(ctx); err != nil {
			return "", err
		}
	}
	if len(w.carts) == 0 {
		w.cartsName = w.name("carts")
	}
	w.carts = encodeCart(w.carts, c)
	return w.cartsName, nil
}

// slot puts a slot's list into a blob and returns the blob's name.
func (w *writer) slot(ctx context.Context, slot uint32, entries []entry) (string, error) {
	size := 0
	for _, e := range entries {
		size += len(e.id) + len(e.digest) + 4
	}
	if len(w.index) > 0 && w.indexSize+size > w.fill {
		if err := w.flushIndex(ctx); err != nil {
			return "", err
		}
	}
	if len(w.index) == 0 {
		w.indexName = w.name("index")
	}
	w.index, w.indexSize = append(w.index, slotEntries{slot, entries}), w.indexSize+size
	return w.indexName, nil
}

// finish writes what is not full.
func (w *writer) finish(ctx context.Context) error {
	if len(w.carts) > 0 {
		if err := w.flushCarts(ctx); err != nil {
			return err
		}
	}
	if len(w.index) > 0 {
		return w.flushIndex(ctx)
	}
	return nil
}

func (w *writer) flushCarts(ctx context.Context) error {
	b := seal(kindCarts, w.carts)
	w.carts = w.carts[:0]
	return w.write(ctx, w.cartsName, b)
}

func (w *writer) flushIndex(ctx context.Context) error {
	b := encodeIndex(w.index)
	w.index, w.indexSize = nil, 0
	return w.write(ctx, w.indexName, b)
}

func (w *writer) write(ctx context.Context, name string, b []byte) error {
	if err := w.b.Write(ctx, name, b); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	w.files = append(w.files, file{name, int64(len(b)), hashOf(b)})
	w.bytes += int64(len(b))
	return nil
}
