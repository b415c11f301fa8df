package verify_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/keybroker/keybroker/audit/verify"
)

// BenchmarkFiles reads a log of 64 MiB from the page cache, with a checkpoint in
// every thousand records. MB/s are of what the log holds, decompressed.
func BenchmarkFiles(b *testing.B) {
	for _, test := range []struct {
		name string
		to   func(io.Writer) (io.WriteCloser, error)
	}{
		{"plain", func(w io.Writer) (io.WriteCloser, error) { return nopCloser{w}, nil }},
		{"zstd", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }},
		{"gzip", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }},
	} {
		b.Run(test.name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "audit.jsonl")
			f, err := os.Create(path)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			buffered := bufio.NewWriter(f)
			out, err := test.to(buffered)
			if err != nil {
				b.Fatal(err)
			}
			const size = 64 << 20
			var written int64
			c, by := newChain(logID), newSigner(1)
			for line := c.createSigned(by); written < size; {
				n, err := io.WriteString(out, line)
				if err != nil {
					b.Fatal(err)
				}
				written += int64(n)
				if c.seq%1000 == 0 {
					line = c.checkpoint(by)
				} else {
					line = c.unwrap()
				}
			}
			if err := out.Close(); err != nil {
				b.Fatal(err)
			}
			if err := buffered.Flush(); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(written)
			b.ReportAllocs()
			for b.Loop() {
				r, err := verify.Files(context.Background(), []string{path}, verify.Options{})
				if err != nil || !r.OK() {
					b.Fatalf("%+v, %v", r, err)
				}
			}
		})
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
