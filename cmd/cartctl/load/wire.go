package load

import (
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Wire is an encoded message.
type Wire struct{ Bytes []byte }

// WireCodec passes encoded messages on: answers are read whole and not decoded.
type WireCodec struct{ JSON bool }

var _ connect.Codec = WireCodec{}

// Name implements connect.Codec.
func (c WireCodec) Name() string {
	if c.JSON {
		return "json"
	}
	return "proto"
}

// Encode encodes a message as the codec says it is.
func (c WireCodec) Encode(m proto.Message) (w *Wire, err error) {
	w = new(Wire)
	if c.JSON {
		w.Bytes, err = protojson.Marshal(m)
	} else {
		w.Bytes, err = proto.Marshal(m)
	}
	return w, err
}

// Marshal implements connect.Codec.
func (WireCodec) Marshal(m any) ([]byte, error) {
	w, ok := m.(*Wire)
	if !ok {
		return nil, fmt.Errorf("message of type %T", m)
	}
	return w.Bytes, nil
}

// Unmarshal implements connect.Codec.
func (WireCodec) Unmarshal(b []byte, m any) error {
	w, ok := m.(*Wire)
	if !ok {
		return fmt.Errorf("message of type %T", m)
	}
	w.Bytes = append([]byte(nil), b...) // the buffer is used again
	return nil
}
