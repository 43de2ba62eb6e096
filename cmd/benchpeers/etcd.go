package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/samecart/samecart/cmd/cartctl/load"
	regionv1 "github.com/samecart/samecart/proto/region/v1"
)

// etcd is a client of one etcd node with one connection. It speaks etcd's v3
// gRPC API (etcdserverpb in rpc.proto of etcd-io/etcd); the three messages that
// are needed are written and read by their field numbers.
type etcd struct {
	put, status *connect.Client[load.Wire, load.Wire]
}

func newEtcd(base string) *etcd {
	hc := grpcClient()
	client := func(method string) *connect.Client[load.Wire, load.Wire] {
		return connect.NewClient[load.Wire, load.Wire](hc, base+"/etcdserverpb."+method, connect.WithGRPC(), connect.WithCodec(load.WireCodec{}),
			connect.WithAcceptCompression("gzip", nil, nil))
	}
	return &etcd{put: client("KV/Put"), status: client("Maintenance/Status")}
}

// leads reports whether the node leads.
func (e *etcd) leads(ctx context.Context) (bool, error) {
	resp, err := e.status.CallUnary(ctx, connect.NewRequest(&load.Wire{}))
	if err != nil {
		return false, err
	}
	// StatusResponse: header = 1 with member_id = 2, leader = 4.
	header, _ := field(resp.Msg.Bytes, 1)
	_, self := field(header, 2)
	_, leader := field(resp.Msg.Bytes, 4)
	return leader != 0 && leader == self, nil
}

// field returns the last value of a field: of a message or of a number.
func field(b []byte, want protowire.Number) (message []byte, number uint64) {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return message, number
		}
		b = b[n:]
		n = protowire.ConsumeFieldValue(num, kind, b)
		if n < 0 {
			return message, number
		}
		if num == want {
			switch kind {
			case protowire.BytesType:
				message, _ = protowire.ConsumeBytes(b)
			case protowire.VarintType:
				number, _ = protowire.ConsumeVarint(b)
			default: // no field that is asked for is of another kind
			}
		}
		b = b[n:]
	}
	return message, number
}

// puts returns a call that stores an add, under the line's key.
func (e *etcd) puts(seed int, carts load.Carts) load.Call {
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	return func(ctx context.Context) error {
		var id [16]byte
		binary.BigEndian.PutUint64(id[:], random.Uint64())
		binary.BigEndian.PutUint64(id[8:], random.Uint64())
		owner, line := carts.Owner(random.IntN(carts.Count)), fmt.Sprintf("SKU-%d", random.IntN(carts.Lines)+1)
		// The bytes that Samecart's log gets for the same add.
		value, err := proto.Marshal(&regionv1.Edit{
			CartId: owner, OpId: id[:], Fingerprint: random.Uint64(),
			Changes: []*regionv1.Change{{
				Kind: regionv1.Change_KIND_ADD, Line: &regionv1.LineKey{Seller: "seller-1", Sku: line}, Quantity: 1, Price: 2999, Currency: "USD",
			}},
		})
		if err != nil {
			return err
		}
		// PutRequest: key = 1, value = 2.
		b := protowire.AppendTag(nil, 1, protowire.BytesType)
		b = protowire.AppendString(b, owner+"/"+line)
		b = protowire.AppendTag(b, 2, protowire.BytesType)
		b = protowire.AppendBytes(b, value)
		_, err = e.put.CallUnary(ctx, connect.NewRequest(&load.Wire{Bytes: b}))
		return err
	}
}
