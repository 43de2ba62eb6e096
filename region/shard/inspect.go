//go:build !wasip1

package shard

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

func inspectLog(dir string) (LogState, error) {
	var s LogState
	newest, err := inspectSnapshots(filepath.Join(dir, "snapshots"))
	if err != nil {
		return s, err
	}
	s.Snapshot = newest.Index
	dir = filepath.Join(dir, "log")
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil {
		return s, err
	}
	meta, err := readBolt(filepath.Join(dir, metadb.FileName))
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(files) == 0:
		s.Begun = s.Snapshot > 0
		return s, nil
	case err != nil:
		return s, fmt.Errorf("%s: %w", metadb.FileName, err)
	}
	term, err := storedTerm(meta[metadb.StableBucket])
	if err != nil {
		return s, err
	}
	var segments types.PersistentState
	if b, ok := meta[metadb.MetaBucket][metadb.MetaKey]; ok {
		if err := json.Unmarshal(b, &segments); err != nil {
			return s, fmt.Errorf("%s: %w", metadb.FileName, err)
		}
	} else if len(files) > 0 {
		return s, fmt.Errorf("%s does not know of %s", metadb.FileName, filepath.Base(files[0]))
	}
	for _, f := range files {
		var base, id uint64
		if n, err := fmt.Sscanf(filepath.Base(f), "%020d-%016x.wal", &base, &id); err != nil || n != 2 {
			return s, fmt.Errorf("%s is no file of the log", filepath.Base(f))
		}
	}
	lastTerm, err := s.inspectSegments(dir, segments.Segments)
	if err != nil {
		return s, err
	}
	if lastTerm > term {
		return s, fmt.Errorf("the log ends in term %d, and the member is in term %d", lastTerm, term)
	}
	s.Begun = term > 0 || s.Last > 0 || s.Snapshot > 0
	return s, nil
}

// storedTerm reads the member's term, and looks at its vote.
func storedTerm(stable map[string][]byte) (uint64, error) {
	var terms [2]uint64
	for i, key := range []string{"CurrentTerm", "LastVoteTerm"} {
		b, ok := stable[key]
		if ok && len(b) != 8 {
			return 0, fmt.Errorf("%s: %s has %d bytes", metadb.FileName, key, len(b))
		}
		if ok {
			terms[i] = binary.LittleEndian.Uint64(b)
		}
	}
	if terms[1] > terms[0] {
		return 0, fmt.Errorf("%s: voted in term %d, and is in %d", metadb.FileName, terms[1], terms[0])
	}
	return terms[0], nil
}

// inspectSegments sets First and Last as raft-wal would find them, and returns
// the last entry's term.
func (s *LogState) inspectSegments(dir string, segments []types.SegmentInfo) (lastTerm uint64, err error) {
	for i, info := range segments {
		tail := info.SealTime.IsZero()
		if tail != (i == len(segments)-1) || i > 0 && info.BaseIndex != segments[i-1].MaxIndex+1 || info.Codec != wal.CodecBinaryV1 {
			return 0, fmt.Errorf("%s: segment %d is not what can follow", metadb.FileName, i)
		}
		f := segmentFile{info: info, tail: tail}
		if err := f.read(filepath.Join(dir, segment.FileName(info))); err != nil {
			return 0, fmt.Errorf("%s: %w", segment.FileName(info), err)
		}
		switch {
		case !tail:
			s.Last = info.MaxIndex
		case f.entries > 0:
			s.Last = info.BaseIndex + f.entries - 1
		}
		if s.Last > 0 && i == 0 {
			s.First = info.MinIndex
		}
		if f.entries > 0 {
			lastTerm = f.term
		}
	}
	return lastTerm, nil
}

// Frames of a segment: a header of 8 bytes, its content, zeros up to the next
// multiple of 8. The frames up to a commit frame were written at once, and that
// has their checksum.
const (
	segmentMagic  = 0x58eb6b0d
	segmentHeader = 32
	frameHeader   = 8

	frameEntry  = 1
	frameIndex  = 2
	frameCommit = 3
)

// segmentFile reads one file of the log.
type segmentFile struct {
	info types.SegmentInfo
	tail bool // it is written to: what was written last may be torn

	f       *os.File
	size    int64
	entries uint64 // committed
	term    uint64 // of the last of them
	index   int64  // where the index is that was committed with the last; 0: there is none
}

func (s *segmentFile) read(path string) error {
	var err error
	if s.f, err = os.Open(path); err != nil {
		if s.tail && errors.Is(err, fs.ErrNotExist) {
			return nil // listed before it is made
		}
		return err
	}
	defer func() { _ = s.f.Close() }() // only read
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	if s.size = info.Size(); s.size == 0 && s.tail {
		return nil
	}
	if s.size < int64(s.info.SizeLimit) {
		return fmt.Errorf("it has %d bytes, and was made with %d", s.size, s.info.SizeLimit)
	}
	end, err := s.frames()
	if err != nil {
		return err
	}
	if !s.tail {
		if s.info.BaseIndex+s.entries <= s.info.MaxIndex {
			return fmt.Errorf("it ends after %d entries, and has those up to %d", s.entries, s.info.MaxIndex)
		}
		return nil
	}
	return s.nothingBehind(end)
}

// frames reads the committed frames and returns where they end.
func (s *segmentFile) frames() (end int64, err error) {
	r := bufio.NewReaderSize(s.f, 256<<10)
	head := make([]byte, segmentHeader)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, err
	}
	if err := s.header(head); err != nil {
		return 0, err
	}
	sum := crc32.Checksum(head, castagnoli)
	var offsets []uint32
	var entries, term uint64 // with those that are not committed yet
	var index int64
	for at := int64(segmentHeader); ; {
		frame, err := r.Peek(frameHeader)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if len(frame) < frameHeader || frame[0] == 0 || frame[0] > frameCommit {
			break
		}
		kind, n := frame[0], int64(binary.LittleEndian.Uint32(frame[4:]))
		if kind == frameCommit {
			if uint32(n) != sum {
				return end, s.torn(at, r)
			}
			at += frameHeader
			sum, end, s.entries, s.term, s.index, index = 0, at, entries, term, index, 0
			if !s.tail && s.index == int64(s.info.IndexStart) {
				return end, nil
			}
			if _, err := r.Discard(frameHeader); err != nil {
				return 0, err
			}
			continue
		}
		padded := frameHeader + (n+frameHeader-1)/frameHeader*frameHeader
		if at+padded > s.size {
			break
		}
		if kind == frameEntry {
			head, err := r.Peek(int(min(frameHeader+n, frameHeader+2*binary.MaxVarintLen64)))
			if err != nil {
				return 0, err
			}
			_, width := binary.Uvarint(head[frameHeader:]) // its index
			term, _ = binary.Uvarint(head[frameHeader+max(width, 0):])
			offsets = append(offsets, uint32(at))
			entries++
		}
		content := &crcCopy{crc: sum}
		if kind == frameIndex {
			index, content.keep = at+frameHeader, new(bytes.Buffer)
		}
		if _, err := io.CopyN(content, r, padded); err != nil {
			return 0, err
		}
		if kind == frameIndex && !s.tail && !indexes(content.keep.Bytes()[frameHeader:], offsets) {
			return 0, errors.New("its index is not that of its entries")
		}
		sum, at = content.crc, at+padded
	}
	if !s.tail {
		return 0, errors.New("it ends before its index")
	}
	return end, nil
}

// header checks a file's header; it is written with the first entries.
func (s *segmentFile) header(b []byte) error {
	if s.tail && bytes.Equal(b, make([]byte, segmentHeader)) {
		return nil
	}
	if binary.LittleEndian.Uint64(b) != segmentMagic || binary.LittleEndian.Uint64(b[8:]) != s.info.BaseIndex ||
		binary.LittleEndian.Uint64(b[16:]) != s.info.ID || binary.LittleEndian.Uint64(b[24:]) != s.info.Codec {
		return errors.New("it does not start as it should")
	}
	return nil
}

// torn passes over a commit whose frames are not those that were written, when
// it may be what the machine was writing as it stopped: then nothing follows.
func (s *segmentFile) torn(at int64, r *bufio.Reader) error {
	next, err := r.Peek(2 * frameHeader)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !s.tail || len(next) == 2*frameHeader && next[frameHeader] >= frameEntry && next[frameHeader] <= frameCommit {
		return fmt.Errorf("what was committed before byte %d is not what was written", at)
	}
	return nil
}

// nothingBehind looks for commits behind the end that was found. What the
// machine was writing as it stopped is one commit at most; two, one of them
// whole, say that something before them was damaged.
func (s *segmentFile) nothingBehind(end int64) error {
	last, err := lastByte(s.f, end, s.size)
	if err != nil || last == end {
		return err
	}
	b := make([]byte, last-end+frameHeader)
	if n, err := s.f.ReadAt(b, end); err != nil && (!errors.Is(err, io.EOF) || n < int(last-end)) {
		return err
	}
	from := -1
	for at := 0; at+frameHeader <= len(b); at += frameHeader {
		if b[at] != frameCommit || b[at+1] != 0 || b[at+2] != 0 || b[at+3] != 0 {
			continue
		}
		if from >= 0 && at > from && b[from] == frameEntry && crc32.Checksum(b[from:at], castagnoli) == binary.LittleEndian.Uint32(b[at+4:]) {
			return fmt.Errorf("it cannot be read from byte %d, and goes on at %d", end, end+int64(from))
		}
		from = at + frameHeader
	}
	return nil
}

// lastByte returns the end of what is not zero in a part of a file.
func lastByte(f io.ReaderAt, from, to int64) (int64, error) {
	last := from
	buf, zeros := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := from; at < to; {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
		if err != nil && (!errors.Is(err, io.EOF) || n == 0) {
			return 0, err
		}
		if !bytes.Equal(buf[:n], zeros[:n]) { // much faster than the search
			last = at + int64(len(bytes.TrimRight(buf[:n], "\x00")))
		}
		at += int64(n)
	}
	return last, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crcCopy sums what is written to it, and keeps it when there is where to.
type crcCopy struct {
	crc  uint32
	keep *bytes.Buffer
}

// Write implements io.Writer.
func (c *crcCopy) Write(b []byte) (int, error) {
	c.crc = crc32.Update(c.crc, castagnoli, b)
	if c.keep != nil {
		c.keep.Write(b)
	}
	return len(b), nil
}

// indexes reports whether a segment's index is of these entries.
func indexes(index []byte, offsets []uint32) bool {
	if len(index) < 4*len(offsets) {
		return false
	}
	for i, o := range offsets {
		if binary.LittleEndian.Uint32(index[4*i:]) != o {
			return false
		}
	}
	return true
}
