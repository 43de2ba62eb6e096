package link

import (
	"encoding/binary"
	"fmt"
	"io"
)

// The hello opens a connection. The dialer says what it speaks, which cluster
// it is of, its name and whom it means to reach; the listener answers with
// the version they will speak and its own name, or with the reason why not.
const (
	helloMagic    = "sclk"
	helloBytesMax = 2048
	nameBytesMax  = 255

	versionMin = 1 // oldest frame format this code speaks
	versionMax = 1 // newest
)

type hello struct {
	min, max uint8 // versions spoken
	cluster  string
	from, to string
}

type welcome struct {
	version uint8 // 0: refused
	cluster string
	node    string
	reason  string
}

func encodeHello(h hello) []byte {
	body := []byte{h.min, h.max}
	body = appendString(body, h.cluster)
	body = appendString(body, h.from)
	body = appendString(body, h.to)
	return encodeGreeting(body)
}

func encodeWelcome(w welcome) []byte {
	body := []byte{w.version}
	body = appendString(body, w.cluster)
	body = appendString(body, w.node)
	body = appendString(body, w.reason)
	return encodeGreeting(body)
}

func encodeGreeting(body []byte) []byte {
	dst := []byte(helloMagic)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(body)))
	return append(dst, body...)
}

// readGreeting reads the magic and a bounded body, and not one byte more:
// frames follow.
func readGreeting(r io.Reader) ([]byte, error) {
	var head [len(helloMagic) + 2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	if string(head[:len(helloMagic)]) != helloMagic {
		return nil, fmt.Errorf("%w: the other end does not speak this protocol: it began with %q", ErrRefused, head[:len(helloMagic)])
	}
	n := int(binary.BigEndian.Uint16(head[len(helloMagic):]))
	if n > helloBytesMax {
		return nil, fmt.Errorf("%w: a hello of %d bytes, at most %d allowed", ErrRefused, n, helloBytesMax)
	}
	body := make([]byte, n)
	_, err := io.ReadFull(r, body)
	return body, err
}

func decodeHello(b []byte) (hello, error) {
	r := reader{b: b}
	h := hello{min: r.byte(), max: r.byte(), cluster: string(r.bytes()), from: string(r.bytes()), to: string(r.bytes())}
	if r.failed {
		return hello{}, fmt.Errorf("%w: a malformed hello of %d bytes", ErrRefused, len(b))
	}
	return h, nil // later versions may append fields
}

func decodeWelcome(b []byte) (welcome, error) {
	r := reader{b: b}
	w := welcome{version: r.byte(), cluster: string(r.bytes()), node: string(r.bytes()), reason: string(r.bytes())}
	if r.failed {
		return welcome{}, fmt.Errorf("%w: a malformed answer of %d bytes", ErrRefused, len(b))
	}
	return w, nil
}

// judge is the listener's decision about h: the version to speak, or a reason.
func (h hello) judge(self, cluster string) (version uint8, reason string) {
	switch {
	case h.min > versionMax || h.max < versionMin:
		return 0, fmt.Sprintf("%q speaks link versions %d to %d, %q speaks %d to %d: upgrade the older one", h.from, h.min, h.max, self, versionMin, versionMax)
	case h.cluster != cluster:
		return 0, fmt.Sprintf("%q is of cluster %q, %q is of cluster %q", h.from, h.cluster, self, cluster)
	case h.to != self:
		return 0, fmt.Sprintf("%q meant to reach %q, this is %q: check the address book", h.from, h.to, self)
	case h.from == "" || len(h.from) > nameBytesMax:
		return 0, fmt.Sprintf("a node name of %d bytes, 1 to %d allowed", len(h.from), nameBytesMax)
	case h.from == self:
		return 0, fmt.Sprintf("a second node calls itself %q", self)
	}
	return min(h.max, versionMax), ""
}
