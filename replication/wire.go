package replication

import (
	"fmt"

	"github.com/klauspost/compress/zstd"

	"github.com/samecart/samecart/crdt"
)

// compressMin is the size from which an interval is compressed: a single
// row gains little and would pay the latency.
const compressMin = 512

// windowBytes is the compression window: repetition between carts is close by.
const windowBytes = 512 << 10

// Codec turns intervals into bytes for the wire and back. One serves a
// whole process; it is safe for concurrent use.
type Codec struct {
	enc      *zstd.Encoder
	dec      *zstd.Decoder
	bytesMax int
}

// NewCodec returns a Codec that refuses what decompresses to more than
// bytesMax: 1 KiB to 64 MiB. At most two decompressions run at a time, the
// others wait, so its memory is bounded too.
func NewCodec(bytesMax int) (*Codec, error) {
	if bytesMax < 1<<10 || bytesMax > 64<<20 {
		return nil, fmt.Errorf("largest interval is %d bytes: want 1 KiB to 64 MiB", bytesMax)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2),
		zstd.WithWindowSize(windowBytes), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(uint64(bytesMax)),
		zstd.WithDecoderMaxWindow(uint64(max(bytesMax, windowBytes))), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("make decompressor: %w", err)
	}
	return &Codec{enc, dec, bytesMax}, nil
}

// Close frees the codec; it must not be used after.
func (c *Codec) Close() {
	_ = c.enc.Close() // nothing was streamed: there is nothing to flush
	c.dec.Close()
}

// Encode returns iv for the wire, and whether it is compressed.
func (c *Codec) Encode(iv crdt.Interval) (data []byte, compressed bool) {
	n := 32
	for i := range iv.Rows {
		n += rowBytes(&iv.Rows[i])
	}
	raw := iv.Encode(make([]byte, 0, n))
	if len(raw) < compressMin {
		return raw, false
	}
	z := c.enc.EncodeAll(raw, make([]byte, 0, len(raw)/2))
	if len(z) >= len(raw) {
		return raw, false
	}
	return z, true
}

// Decode is the inverse of Encode, for untrusted bytes. An error wraps
// ErrRefused.
func (c *Codec) Decode(data []byte, compressed bool) (crdt.Interval, error) {
	if compressed {
		raw, err := c.dec.DecodeAll(data, nil)
		if err != nil {
			return crdt.Interval{}, fmt.Errorf("%w: decompress %d bytes to at most %d: %w", ErrRefused, len(data), c.bytesMax, err)
		}
		data = raw
	}
	if len(data) > c.bytesMax {
		return crdt.Interval{}, fmt.Errorf("%w: interval of %d bytes: at most %d", ErrRefused, len(data), c.bytesMax)
	}
	iv, err := crdt.DecodeInterval(data)
	if err != nil {
		return crdt.Interval{}, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return iv, nil
}
