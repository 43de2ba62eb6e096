package link

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// A frame is a 4-byte big-endian length, a type byte and what the type asks
// for; integers are uvarints. The length counts what follows it.
type frameType uint8

const (
	frameRequest  frameType = 1 // id, kind, flags, timeout in µs (0: none), body
	frameResponse frameType = 2 // id, status, body
	frameCancel   frameType = 3 // id
	frameChunk    frameType = 4 // id, body: a piece of a snapshot
	frameCredit   frameType = 5 // id, count: bytes the receiver can take in addition
	framePing     frameType = 6
	framePong     frameType = 7
)

// status says what became of a request.
type status uint8

const (
	statusOK          status = 0
	statusError       status = 1 // body: code, message, detail
	statusOverloaded  status = 2
	statusUnknownKind status = 3
	statusWrongServer status = 4
	statusTooLarge    status = 5
	statusMax                = statusTooLarge
)

const (
	lengthBytes = 4
	// frameOverhead bounds the bytes of a frame that are not its body.
	frameOverhead = 1 + 3*binary.MaxVarintLen64 + 2
	// timeoutMax bounds the time limit that a request may carry.
	timeoutMax = 24 * time.Hour
	// messageBytesMax bounds the text of an error that crosses.
	messageBytesMax = 64 << 10

	// flagUrgent asks that the answer of a heartbeat be not held.
	flagUrgent = 1
)

type frame struct {
	typ     frameType
	id      uint64
	kind    Kind          // request
	flags   uint8         // request
	timeout time.Duration // request; 0 is none
	status  status        // response
	count   uint64        // credit
	body    []byte        // request, response, chunk
}

// appendFrame appends f with its length. The caller has checked the size.
func appendFrame(dst []byte, f *frame) []byte {
	at := len(dst)
	dst = append(dst, 0, 0, 0, 0, byte(f.typ))
	switch f.typ {
	case frameRequest:
		dst = binary.AppendUvarint(dst, f.id)
		dst = append(dst, byte(f.kind), f.flags)
		dst = binary.AppendUvarint(dst, timeoutMicros(f.timeout))
	case frameResponse:
		dst = binary.AppendUvarint(dst, f.id)
		dst = append(dst, byte(f.status))
	case frameCancel, frameChunk:
		dst = binary.AppendUvarint(dst, f.id)
	case frameCredit:
		dst = binary.AppendUvarint(dst, f.id)
		dst = binary.AppendUvarint(dst, f.count)
	case framePing, framePong:
	}
	dst = append(dst, f.body...)
	binary.BigEndian.PutUint32(dst[at:], uint32(len(dst)-at-lengthBytes))
	return dst
}

// timeoutMicros rounds up, so that a limit never turns into "none".
func timeoutMicros(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((min(d, timeoutMax) + time.Microsecond - 1) / time.Microsecond)
}

// decodeFrame reads what follows the length. The body aliases b.
func decodeFrame(b []byte) (frame, error) {
	r := reader{b: b}
	f := frame{typ: frameType(r.byte())}
	switch f.typ {
	case frameRequest:
		f.id = r.uvarint()
		f.kind = Kind(r.byte())
		f.flags = r.byte()
		f.timeout = time.Duration(min(r.uvarint(), uint64(timeoutMax/time.Microsecond))) * time.Microsecond
		f.body = r.rest()
	case frameResponse:
		f.id = r.uvarint()
		f.status = status(r.byte())
		if f.status > statusMax {
			return frame{}, fmt.Errorf("%w: status %d", errFrame, f.status)
		}
		f.body = r.rest()
	case frameChunk:
		f.id = r.uvarint()
		f.body = r.rest()
	case frameCancel:
		f.id = r.uvarint()
	case frameCredit:
		f.id = r.uvarint()
		f.count = r.uvarint()
	case framePing, framePong:
	default:
		return frame{}, fmt.Errorf("%w: type %d", errFrame, f.typ)
	}
	if r.failed || len(r.b) != 0 {
		return frame{}, fmt.Errorf("%w: type %d of %d bytes", errFrame, f.typ, len(b))
	}
	return f, nil
}

// readFrame reads one frame of at most bytesMax. Its body is the caller's.
func readFrame(r *bufio.Reader, bytesMax int) (frame, error) {
	var head [lengthBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || uint64(n) > uint64(bytesMax) {
		return frame{}, fmt.Errorf("%w: length %d, 1 to %d allowed", errFrame, n, bytesMax)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return frame{}, err
	}
	return decodeFrame(b)
}

// encodeError makes the body of a statusError response.
func encodeError(e *Error) []byte {
	dst := binary.BigEndian.AppendUint16(nil, e.Code)
	dst = appendString(dst, e.Message[:min(len(e.Message), messageBytesMax)])
	return append(dst, e.Detail...)
}

func decodeError(b []byte) (*Error, error) {
	r := reader{b: b}
	e := &Error{Code: uint16(r.byte())<<8 | uint16(r.byte()), Message: string(r.bytes())}
	if d := r.rest(); len(d) > 0 {
		e.Detail = d
	}
	if r.failed {
		return nil, fmt.Errorf("%w: error of %d bytes", errFrame, len(b))
	}
	return e, nil
}

// appendString appends s behind its length.
func appendString[T string | []byte](dst []byte, s T) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// reader takes fields off untrusted bytes. After the first field that does
// not fit, failed is set and every further field is zero.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) fail() {
	r.failed = true
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes returns a field behind its length, aliasing the input; nil if empty.
func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	if n == 0 {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) rest() []byte {
	v := r.b
	r.b = nil
	return v
}
