package cache

import (
	"encoding/binary"
	"errors"
)

// A value in Redis is magic (4 bytes) | incarnation (4) | epoch (4) | index (8)
// | data, integers big-endian, so that comparing the header byte by byte is
// comparing versions. Another layout takes another magic: each binary then
// sees the other's values as foreign, which is a miss and never a wrong cart.
const (
	magic      = "smc1"
	headerSize = len(magic) + 16
)

var errForeign = errors.New("value was not written by this cache")

func encode(e Entry) []byte {
	b := make([]byte, 0, headerSize+len(e.Data))
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, e.Version.Incarnation)
	b = binary.BigEndian.AppendUint32(b, e.Version.Epoch)
	b = binary.BigEndian.AppendUint64(b, e.Version.Index)
	return append(b, e.Data...)
}

// decode shares b with the entry it returns.
func decode(b []byte) (Entry, error) {
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return Entry{}, errForeign
	}
	v := b[len(magic):]
	return Entry{
		Version: Version{
			Incarnation: binary.BigEndian.Uint32(v),
			Epoch:       binary.BigEndian.Uint32(v[4:]),
			Index:       binary.BigEndian.Uint64(v[8:]),
		},
		Data: b[headerSize:],
	}, nil
}
