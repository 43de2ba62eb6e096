package rpc

import (
	"fmt"
	"regexp"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// The library answers a message that it cannot decode by itself, without our
// code as a detail. So these codecs put the fault into the message instead,
// as an unknown field that decoding never lets through, and the interceptor
// takes it out again.

// faultField is a field number that no message of ours has.
const faultField protowire.Number = 1 << 28

func markFault(m proto.Message, e *Error) {
	proto.Reset(m)
	b := protowire.AppendTag(nil, faultField, protowire.BytesType)
	b = protowire.AppendString(b, string(e.Code)+"\n"+e.Message)
	m.ProtoReflect().SetUnknown(b)
}

// decodeFault returns the fault that decoding the message ended with.
func decodeFault(m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	b := msg.ProtoReflect().GetUnknown()
	number, _, n := protowire.ConsumeTag(b)
	if n < 0 || number != faultField {
		return nil
	}
	text, n := protowire.ConsumeString(b[n:])
	if n < 0 {
		return nil
	}
	code, message, _ := strings.Cut(text, "\n")
	return &Error{Code: Code(code), Message: message}
}

// binaryCodec is protobuf. Unknown fields are dropped: they come from newer
// clients, and none of them can pass for a fault.
type binaryCodec struct{}

// Name implements connect.Codec.
func (binaryCodec) Name() string { return "proto" }

// Marshal implements connect.Codec.
func (c binaryCodec) Marshal(m any) ([]byte, error) { return c.MarshalAppend(nil, m) }

// MarshalAppend is Marshal into a buffer that the library uses again.
func (binaryCodec) MarshalAppend(b []byte, m any) ([]byte, error) {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", m)
	}
	return proto.MarshalOptions{}.MarshalAppend(b, msg)
}

// Unmarshal implements connect.Codec.
func (binaryCodec) Unmarshal(b []byte, m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", m)
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, msg); err != nil {
		markFault(msg, fault(MalformedJSON, "the body is no valid %s message in protobuf encoding", msg.ProtoReflect().Descriptor().Name()))
	}
	return nil
}

// jsonCodec is protobuf's JSON mapping, read strictly: a misspelt field is an
// error, as it is in REST, and not an edit of something else.
type jsonCodec struct{}

// Name implements connect.Codec.
func (jsonCodec) Name() string { return "json" }

// Marshal implements connect.Codec.
func (c jsonCodec) Marshal(m any) ([]byte, error) { return c.MarshalAppend(nil, m) }

// MarshalAppend is Marshal into a buffer that the library uses again.
func (jsonCodec) MarshalAppend(b []byte, m any) ([]byte, error) {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no protobuf message", m)
	}
	return protojson.MarshalOptions{}.MarshalAppend(b, msg)
}

// Unmarshal implements connect.Codec.
func (jsonCodec) Unmarshal(b []byte, m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no protobuf message", m)
	}
	if err := protojson.Unmarshal(b, msg); err != nil {
		markFault(msg, jsonFault(err.Error()))
	}
	return nil
}

var (
	unknownField = regexp.MustCompile(`unknown field "([^"]*)"`)
	badQuantity  = regexp.MustCompile(`field quantity: (.*)$`)
)

// jsonFault tells from the text what protojson disliked: its errors have no
// types. Tests hold the texts that matter.
func jsonFault(text string) *Error {
	if m := unknownField.FindStringSubmatch(text); m != nil {
		return fault(UnknownField, "field %.80q is not known: check its name", m[1])
	}
	if m := badQuantity.FindStringSubmatch(text); m != nil {
		return fault(InvalidQuantity, "quantity %.40s must be a whole number that is not negative", m[1])
	}
	// protojson varies the blanks of its prefix, so that nobody relies on them.
	text = strings.TrimLeft(strings.TrimPrefix(text, "proto:"), " \u00a0")
	return fault(MalformedJSON, "the body is no valid JSON for this call: %.200s", strings.ToValidUTF8(text, "?"))
}

var (
	_ connect.Codec = binaryCodec{}
	_ connect.Codec = jsonCodec{}
)
