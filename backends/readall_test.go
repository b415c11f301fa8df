package backends_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/keybroker/keybroker/backends"
)

func TestReadAll(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		want := bytes.Repeat([]byte{0xa5}, size)
		for name, r := range map[string]io.Reader{
			"whole":           bytes.NewReader(want),
			"byte by byte":    iotest.OneByteReader(bytes.NewReader(want)),
			"EOF with a byte": iotest.DataErrReader(bytes.NewReader(want)),
		} {
			got, err := backends.ReadAll(r)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s of %d bytes: %d bytes, %v", name, size, len(got), err)
			}
		}
	}
}

// kept keeps the buffers that it was given to fill.
type kept struct {
	io.Reader
	buffers [][]byte
}

func (k *kept) Read(p []byte) (int, error) {
	n, err := k.Reader.Read(p)
	k.buffers = append(k.buffers, p[:n])
	return n, err
}

// TestReadAllLeavesNoCopy but the result, and none with an error.
func TestReadAllLeavesNoCopy(t *testing.T) {
	broken := errors.New("broken")
	secret := bytes.Repeat([]byte{0xa5}, 10_000)
	for _, tc := range []struct {
		name      string
		end, want error
		size      int
	}{{"to the end", io.EOF, nil, len(secret)}, {"broken", broken, broken, 0}} {
		t.Run(tc.name, func(t *testing.T) {
			k := &kept{Reader: io.MultiReader(bytes.NewReader(secret), iotest.ErrReader(tc.end))}
			got, err := backends.ReadAll(k)
			if !errors.Is(err, tc.want) || !bytes.Equal(got, secret[:tc.size]) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			clear(got)
			if len(k.buffers) < 2 {
				t.Fatal("one buffer sufficed: the test shows nothing")
			}
			for i, b := range k.buffers {
				if bytes.Contains(b, []byte{0xa5}) {
					t.Errorf("buffer %d was not wiped", i)
				}
			}
		})
	}
}
