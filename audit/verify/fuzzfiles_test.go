package verify

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const (
	// fuzzPublic has signed the seeds: its seed is 32 bytes of 1.
	fuzzPublic = "keybroker.audit+9d983267+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c"
	fuzzText   = "keybroker.audit/00112233445566778899aabbccddeeff\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\ntime 2026-01-02T03:04:05.000000006Z\nnode n1\n"
	// And this was signed too.
	fuzzNext = fuzzText + "next keybroker.audit+c2746b8d+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU\n"
)

// What is read of a checkpoint is what stands in it, and nothing but the text that
// was signed is taken for signed.
func FuzzCheckpoint(f *testing.F) {
	key, err := ParseKey(fuzzPublic)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint("x", b)
		if err != nil {
			return
		}
		text := fmt.Sprintf("keybroker.audit/%s\n%d\n%s\ntime %s\nnode ", c.logID, c.head.Seq,
			base64.StdEncoding.EncodeToString(c.head.Hash[:]), c.time.Format(timeLayout))
		if c.head.Seq == 0 || !strings.HasPrefix(string(b), text) || c.next != nil && !strings.Contains(string(b), "\nnext "+c.next.vkey+"\n") {
			t.Fatalf("%q is read as %+v", b, c)
		}
		if c.signedBy(key) && !strings.HasPrefix(string(b), fuzzText+"\n— ") && !strings.HasPrefix(string(b), fuzzNext+"\n— ") {
			t.Fatalf("%q is taken for signed", b)
		}
	})
}

// Whatever a compressed file holds, what is read of it is what another reader
// makes of it; and a log of it gives a result.
func FuzzCompressed(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte, gz bool) {
		const large = 4096 // more takes too long, decompressed
		if len(b) > large {
			return
		}
		path, other := filepath.Join(t.TempDir(), "a.zst"), unzstd
		if gz {
			path, other = filepath.Join(t.TempDir(), "a.gz"), ungzip
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		opened, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = opened.Close() }()
		in := (&file{File: opened, path: path, stored: int64(len(b)), compression: compressionOf(path, b)}).content(context.Background())
		got, err := io.ReadAll(in)
		in.close()
		if err != nil {
			if _, is := errors.AsType[*damageError](err); !is {
				t.Fatal(err)
			}
		}
		if want, wantErr := other(b); (wantErr == nil) != (err == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes are read, %v; want %d, %v", len(got), err, len(want), wantErr)
		}
		r, err := Files(context.Background(), []string{path}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if r.OK() && r.Records == 0 || r.Bytes < 0 || r.Bytes > int64(len(b)) {
			t.Fatalf("%+v", r)
		}
	})
}

func unzstd(b []byte) ([]byte, error) {
	in, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return in.DecodeAll(b, nil)
}

func ungzip(b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, nil // an empty file
	}
	in, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(in)
}

// A log whose lines are right, and whose members about signatures are anybody's,
// gives a result; and is signed only as far as the key has signed.
func FuzzSignedRecords(f *testing.F) {
	key, err := ParseKey(fuzzPublic)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, event, checkpoint, publicKey string, seq uint64) {
		var b bytes.Buffer
		prev := zeroHash
		for n := range uint64(2) {
			body := fmt.Sprintf(`{"v":1,"seq":%d,"time":"2026-01-02T03:04:05.000000000Z","node":"n1","event":%s,"outcome":"ok","log":"00112233445566778899aabbccddeeff"`, seq+n, quote(event))
			if checkpoint != "" {
				body += `,"checkpoint":` + quote(checkpoint)
			}
			if publicKey != "" {
				body += `,"public_key":` + quote(publicKey)
			}
			body += `,"prev":"` + prev + `"`
			prev = hashed(body)
			b.WriteString(body + `,"hash":"` + prev + "\"}\n")
		}
		path := filepath.Join(t.TempDir(), "a")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, o := range []Options{{}, {Key: key}} {
			r, err := Files(context.Background(), []string{path}, o)
			if err != nil {
				t.Fatal(err)
			}
			if r.OK() && o.Key != nil && r.Signed.Checkpoints == 0 || r.Signed.Checkpoints > 0 && r.Signed.First == nil {
				t.Fatalf("%+v", r)
			}
		}
	})
}

func hashed(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}
