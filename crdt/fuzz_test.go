package crdt_test

import "testing"

func fuzz(f *testing.F, name string) {
	for _, b := range samples()[name] {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkDecoder(t, codecs[name], b) })
}

func FuzzDecodeCart(f *testing.F)     { fuzz(f, "cart") }
func FuzzDecodeContext(f *testing.F)  { fuzz(f, "context") }
func FuzzDecodeDelta(f *testing.F)    { fuzz(f, "delta") }
func FuzzDecodeState(f *testing.F)    { fuzz(f, "state") }
func FuzzDecodeRow(f *testing.F)      { fuzz(f, "row") }
func FuzzDecodeInterval(f *testing.F) { fuzz(f, "interval") }
