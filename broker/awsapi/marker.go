package awsapi

import (
	"encoding/base64"
	"sort"
	"strings"
)

// mark begins the markers of one list, so that none is taken for another's. A marker is
// the last name of a page: the next page is right also if keys came or went meanwhile.
type mark string

const (
	markKeys    mark = "keys 1 "
	markAliases mark = "aliases 1 "
)

// pageSize is how many are in an answer unless the caller sets Limit, as AWS has it
// for keys.
const pageSize = 100

// after returns the marker of the page behind name.
func (m mark) after(name string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(string(m) + name))
}

// after returns the name behind which the page that is asked for begins; "" for the
// first.
func (in *input) after(m mark) (string, *refusal) {
	if in.marker == nil {
		return "", nil
	}
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(*in.marker)
	name, ok := strings.CutPrefix(string(decoded), string(m))
	if err != nil || !ok || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789._-") != "" || m.after(name) != *in.marker {
		return "", refuse(invalidMarker, "the Marker is not the NextMarker of an answer to this operation")
	}
	return name, nil
}

// pageOf returns the page of all, which is sorted by name, behind the name after, and
// whether there are more.
func pageOf[T any](all []T, name func(T) string, after string, limit *int) (page []T, more bool) {
	from := sort.Search(len(all), func(i int) bool { return name(all[i]) > after })
	page = all[from:]
	size := pageSize
	if limit != nil {
		size = *limit
	}
	if len(page) > size {
		return page[:size], true
	}
	return page, false
}
