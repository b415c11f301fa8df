package backendtest

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// canonical is the canonical encoding of pairs, as the broker makes it: their
// number, then sorted by name, each name and value after its length (uint32, big
// endian). It is written anew here, since the words of the broker are not a
// backend's.
func canonical(pairs map[string]string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(pairs)))
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		for _, text := range []string{name, pairs[name]} {
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
		}
	}
	return b
}

// somePairs are what the tests bind to that are not about pairs.
func somePairs() map[string]string {
	return map[string]string{"keybroker:key": "tikv", "cluster": "prod-1"}
}

// manyPairs are n of them.
func manyPairs(n int) map[string]string {
	m := make(map[string]string, n)
	for i := range n {
		m[fmt.Sprintf("name-%d", i)] = fmt.Sprintf("value %d", i)
	}
	return m
}

// utf8Pairs are beyond ASCII and the basic plane, and not normalised.
func utf8Pairs() map[string]string {
	return map[string]string{"größe": "e\u0301 is not \u00e9", "鍵": "🔑", "мир": "ключ"}
}
