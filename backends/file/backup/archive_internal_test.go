package backup

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/keybroker/keybroker/backends/file"
)

// Of what unarchive takes, each key is whole and, packed again in its order, gives
// the same bytes.
func FuzzUnarchive(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		contents, err := unarchive(b)
		if !bytes.Equal(b, before) {
			t.Fatal("unarchive changed its argument")
		}
		if err != nil {
			if contents != nil || !errors.Is(err, ErrDamaged) {
				t.Fatalf("%d keys, %v", len(contents), err)
			}
			return
		}
		entries := []entry{{versionName, []byte(version)}}
		for _, content := range contents {
			info, err := file.Inspect(content)
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, entry{info.Name + suffix, content})
		}
		again, err := pack(entries)
		if err != nil || !bytes.Equal(again, b) || len(contents) == 0 {
			t.Fatalf("%d keys give %d bytes, %v; they came from %d", len(contents), len(again), err, len(b))
		}
	})
}

func TestFuzzTargetHasSeeds(t *testing.T) {
	if seeds, err := os.ReadDir("testdata/fuzz/FuzzUnarchive"); err != nil || len(seeds) == 0 {
		t.Errorf("FuzzUnarchive has no seeds: %v", err)
	}
}

// A reader that gives little at a time, and more than there may be.
func TestReadAll(t *testing.T) {
	for _, size := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		want := bytes.Repeat([]byte("keyring "), size/8+1)[:size]
		if got, err := readAll(&trickle{want}); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d, %v", size, len(got), err)
		}
	}
	if got, err := readAll(&endless{}); err == nil || len(got) > 2*maxPlain {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// trickle gives its bytes 1000 at a time.
type trickle struct{ left []byte }

func (r *trickle) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), 1000)], r.left)
	r.left = r.left[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// endless gives whatever is there.
type endless struct{}

func (*endless) Read(p []byte) (int, error) { return len(p), nil }
