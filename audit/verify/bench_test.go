package verify_test

import (
	"bufio"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/keybroker/keybroker/audit/verify"
)

// BenchmarkFiles reads a log of 64 MiB from the page cache.
func BenchmarkFiles(b *testing.B) {
	path := filepath.Join(b.TempDir(), "audit.jsonl")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	const size = 64 << 20
	var written int64
	out := bufio.NewWriter(f)
	c := newChain(logID)
	for line := c.create(); written < size; line = c.unwrap() {
		n, err := out.WriteString(line)
		if err != nil {
			b.Fatal(err)
		}
		written += int64(n)
	}
	if err := out.Flush(); err != nil {
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
}
