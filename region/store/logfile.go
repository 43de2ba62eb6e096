package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/dgraph-io/badger/v4/y"
)

// logHeader is what stands before the first entry of a log file: the number of
// an encryption key, and an initialization vector.
const logHeader = 20

// entryHeaderMax is the largest header of an entry: two bytes and three numbers.
const entryHeaderMax = 2 + 2*binary.MaxVarintLen32 + binary.MaxVarintLen64

// logFile reads one of Badger's log files, a memtable's or one of the value
// log: entries, one after the other, then zeros.
type logFile struct {
	f    *os.File
	size int64
	r    *bufio.Reader
	at   int64 // end of the entry read last
}

type logEntry struct {
	meta       byte
	key, value []byte
}

// openLogFile returns nil for a file of length 0: one that Badger was about to
// delete.
func openLogFile(path string) (*logFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, errors.Join(err, f.Close())
	}
	l := &logFile{f: f, size: info.Size(), r: bufio.NewReaderSize(f, 256<<10), at: logHeader}
	var head [logHeader]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errors.Join(err, f.Close())
	}
	if key := binary.BigEndian.Uint64(head[:8]); key != 0 {
		return nil, errors.Join(fmt.Errorf("%w: %s does not start as a log file does", ErrCorrupt, filepath.Base(path)), f.Close())
	}
	return l, nil
}

func (l *logFile) close() { _ = l.f.Close() } // only read

// next returns the next entry, io.EOF at what is none.
func (l *logFile) next() (e logEntry, err error) {
	head, err := l.r.Peek(entryHeaderMax)
	if err != nil && !errors.Is(err, io.EOF) {
		return e, err
	}
	if len(head) < 2 {
		return e, io.EOF
	}
	at := 2
	var numbers [3]uint64 // lengths of key and value, time of expiry
	for i := range numbers {
		n, width := binary.Uvarint(head[at:])
		if width <= 0 {
			return e, io.EOF
		}
		numbers[i] = n
		at += width
	}
	klen, vlen := numbers[0], numbers[1]
	if klen == 0 || klen > 1<<16 || vlen > uint64(l.size) {
		return e, io.EOF
	}
	n := at + int(klen) + int(vlen) + crc32.Size
	if l.at+int64(n) > l.size {
		return e, io.EOF
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(l.r, b); err != nil {
		return e, err
	}
	sum := n - crc32.Size
	if crc32.Checksum(b[:sum], castagnoli) != binary.BigEndian.Uint32(b[sum:]) {
		return e, io.EOF
	}
	l.at += int64(n)
	return logEntry{meta: b[0], key: b[at : at+int(klen)], value: b[at+int(klen) : sum]}, nil
}

// replay reads a memtable as Badger does when it opens it, and calls each for
// the entries that it then has: those of whole transactions. It returns where
// the last of these ends, and where the last entry does that could be read.
func (l *logFile) replay(each func(key []byte, meta byte, value []byte) error) (whole, read int64, err error) {
	whole, read = logHeader, logHeader
	var open []logEntry // of a transaction that has not ended
	var version uint64
	for {
		e, err := l.next()
		if errors.Is(err, io.EOF) {
			return whole, read, nil
		}
		if err != nil {
			return 0, 0, err
		}
		switch {
		case e.meta&bitTxn != 0:
			if len(open) > 0 && y.ParseTs(e.key) != version {
				return whole, read, nil
			}
			version = y.ParseTs(e.key)
			open, read = append(open, e), l.at
			continue
		case e.meta&bitFinTxn != 0:
			if v, err := strconv.ParseUint(string(e.value), 10, 64); err != nil || len(open) == 0 || v != version {
				return whole, read, nil
			}
		case len(open) > 0:
			return whole, read, nil
		default:
			open = append(open, e)
		}
		for _, o := range open {
			if err := each(o.key, o.meta, o.value); err != nil {
				return 0, 0, err
			}
		}
		open, whole, read = nil, l.at, l.at
	}
}

// lastByte returns the end of what is not zero, from an offset on; that offset
// when all is.
func (l *logFile) lastByte(from int64) (int64, error) {
	last := from
	buf, zeros := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := from; at < l.size; {
		n, err := l.f.ReadAt(buf[:min(int64(len(buf)), l.size-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		if n == 0 {
			break
		}
		if !bytes.Equal(buf[:n], zeros[:n]) { // much faster than the search
			last = at + int64(len(bytes.TrimRight(buf[:n], "\x00")))
		}
		at += int64(n)
	}
	return last, nil
}
