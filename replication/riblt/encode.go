package riblt

// Encoder turns a set into coded symbols. Not safe for concurrent use.
type Encoder struct {
	elements []element
	made     uint64
}

// NewEncoder returns an encoder of a set; no item may be in it twice.
func NewEncoder(key Key, items []Item) *Encoder {
	e := &Encoder{elements: make([]element, len(items))}
	for i := range items {
		e.elements[i] = elementOf(&key, hashOf(&key, &items[i]))
	}
	return e
}

// Append appends the next n coded symbols. It goes over all items, whatever n
// is.
func (e *Encoder) Append(dst []byte, n int) []byte {
	for _, s := range e.run(n) {
		dst = s.append(dst)
	}
	return dst
}

// run returns the next n symbols.
func (e *Encoder) run(n int) []symbol {
	run := make([]symbol, n)
	spread(e.elements, run, e.made, 1)
	e.made += uint64(n)
	return run
}
