package awskms_test

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"github.com/keybroker/keybroker/backends/awskms"
)

// A request's body can be read as often as it must, until its call has ended. A
// transport that reads on then finds nothing, and nothing is left of it.
func TestSecretBody(t *testing.T) {
	content := randomBytes(100)
	under := bytes.Clone(content)
	body, wipe := awskms.NewSecretBody(under)
	if err := iotest.TestReader(body, content); err != nil {
		t.Error(err)
	}
	for _, at := range []int64{0, 40, 100} {
		if _, err := body.Seek(at, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if n, err := io.Copy(&b, body); err != nil || n != 100-at || !bytes.Equal(b.Bytes(), content[at:]) {
			t.Errorf("from %d: %d bytes, %v", at, n, err)
		}
	}
	if _, err := body.Seek(10, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	wipe()
	if got, err := io.ReadAll(struct{ io.Reader }{body}); len(got) > 0 || err == nil {
		t.Errorf("read: %d bytes, %v", len(got), err)
	}
	if n, err := io.Copy(io.Discard, body); n > 0 || err == nil {
		t.Errorf("copied: %d bytes, %v", n, err)
	}
	if !bytes.Equal(under, make([]byte, len(under))) {
		t.Error("the bytes are still there")
	}
	wipe()
}
