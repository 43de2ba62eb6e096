package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/dgraph-io/badger/v4"
)

// snapshotMagic starts a snapshot; the last byte is its version.
var snapshotMagic = []byte("samecart\x03")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// keyBytesMax and valueBytesMax bound what a snapshot's reader allocates.
const (
	keyBytesMax   = 1 << 16
	valueBytesMax = 64 << 20
)

// Snapshot is a space as of one moment. It holds a read transaction until
// Close.
type Snapshot struct {
	space *Space
	tx    *badger.Txn
}

// Snapshot fixes the space as it is now. It must be called between commits,
// by the applying goroutine; writing it out may happen beside later ones.
func (s *Space) Snapshot() *Snapshot {
	return &Snapshot{space: s, tx: s.store.db.NewTransaction(false)}
}

// WriteTo streams the snapshot: a magic, the key-value pairs in key order
// with their lengths, an end mark, their number and a CRC-32C of all before.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	crc := crc32.New(castagnoli)
	counted := &countingWriter{w: io.MultiWriter(w, crc)}
	bw := bufio.NewWriterSize(counted, 256<<10)
	if _, err := bw.Write(snapshotMagic); err != nil {
		return counted.n, err
	}
	opt := badger.DefaultIteratorOptions
	opt.Prefix = s.space.prefix
	it := s.tx.NewIterator(opt)
	defer it.Close()
	var pairs uint64
	var head [2 * binary.MaxVarintLen32]byte
	for it.Rewind(); it.Valid(); it.Next() {
		k := it.Item().Key()[len(s.space.prefix):]
		if err := it.Item().Value(func(v []byte) error {
			h := binary.AppendUvarint(head[:0], uint64(len(k)))
			h = binary.AppendUvarint(h, uint64(len(v)))
			_, err := bw.Write(h)
			_, err2 := bw.Write(k)
			_, err3 := bw.Write(v)
			return errors.Join(err, err2, err3)
		}); err != nil {
			return counted.n, fmt.Errorf("write snapshot: %w", err)
		}
		pairs++
	}
	end := binary.BigEndian.AppendUint64([]byte{0}, pairs) // no key is empty
	if _, err := bw.Write(end); err != nil {
		return counted.n, err
	}
	if err := bw.Flush(); err != nil {
		return counted.n, err
	}
	sum := binary.BigEndian.AppendUint32(nil, crc.Sum32())
	_, err := counted.w.Write(sum)
	return counted.n + int64(len(sum)), err
}

// Close releases the snapshot.
func (s *Snapshot) Close() { s.tx.Discard() }

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// Restore reads a snapshot into a new generation and makes it the current
// one in a single write (S2); it returns the new space. After an error, or
// a crash at any point, the space before is still the current one.
func (s *Space) Restore(r io.Reader) (*Space, error) {
	next := s.store.space(s.shard, s.generation+1, s.slotLo, s.slotHi)
	// An earlier try may have died.
	end := spacePrefix(s.shard, next.generation+1)
	if err := s.store.deleteRange(next.prefix, end, func() bool { return false }); err != nil {
		return nil, fmt.Errorf("clear generation %d of shard %d: %w", next.generation, s.shard, err)
	}
	s.store.steps.At(StepCleared)
	if err := next.fill(r); err != nil {
		return nil, fmt.Errorf("restore shard %d: %w", s.shard, err)
	}
	s.store.steps.At(StepFilled)
	if err := next.load(); err != nil {
		return nil, err
	}
	if err := s.store.point(s.shard, next.generation); err != nil {
		return nil, err
	}
	s.store.steps.At(StepPointed)
	return next, nil
}

// crcReader sums what the caller takes from br, not what br read ahead.
type crcReader struct {
	br  *bufio.Reader
	crc uint32
}

func (c *crcReader) Read(b []byte) (int, error) {
	n, err := c.br.Read(b)
	c.crc = crc32.Update(c.crc, castagnoli, b[:n])
	return n, err
}

func (c *crcReader) ReadByte() (byte, error) {
	b, err := c.br.ReadByte()
	if err == nil {
		c.crc = crc32.Update(c.crc, castagnoli, []byte{b})
	}
	return b, err
}

func (s *Space) fill(r io.Reader) error {
	in := &crcReader{br: bufio.NewReaderSize(r, 256<<10)}
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(in, magic); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	if !bytes.Equal(magic, snapshotMagic) {
		return fmt.Errorf("%w: snapshot starts with %q", ErrCorrupt, magic)
	}
	// The generation is not current yet, so it does not matter where the
	// batch splits itself.
	wb := s.store.db.NewWriteBatch()
	defer wb.Cancel()
	var pairs uint64
	for {
		klen, err := binary.ReadUvarint(in)
		if err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
		if klen == 0 {
			break
		}
		vlen, err := binary.ReadUvarint(in)
		if err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
		if klen > keyBytesMax || vlen > valueBytesMax {
			return fmt.Errorf("%w: snapshot pair of %d and %d bytes", ErrCorrupt, klen, vlen)
		}
		kv := make([]byte, len(s.prefix)+int(klen)+int(vlen))
		n := copy(kv, s.prefix)
		if _, err := io.ReadFull(in, kv[n:]); err != nil {
			return fmt.Errorf("read snapshot: %w", err)
		}
		cut := n + int(klen)
		if err := wb.Set(kv[:cut:cut], kv[cut:]); err != nil {
			return err
		}
		pairs++
	}
	var end [12]byte
	if _, err := io.ReadFull(in, end[:8]); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	want := in.crc
	if _, err := io.ReadFull(in.br, end[8:]); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	if got := binary.BigEndian.Uint64(end[:8]); got != pairs {
		return fmt.Errorf("%w: snapshot of %d pairs says %d", ErrCorrupt, pairs, got)
	}
	if got := binary.BigEndian.Uint32(end[8:]); got != want {
		return fmt.Errorf("%w: snapshot checksum %08x, want %08x", ErrCorrupt, got, want)
	}
	return wb.Flush()
}
