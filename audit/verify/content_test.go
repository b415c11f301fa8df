package verify_test

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/keybroker/keybroker/audit/verify"
)

// zstdOf compresses text in blocks of some lines.
func zstdOf(t testing.TB, text string) string {
	t.Helper()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	const block = 2000
	for part := range slices.Chunk([]byte(text), block) {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func gzipOf(t testing.TB, text string) string {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// compress replaces the file at path, and returns the path of the new one.
func compress(t testing.TB, path, extension string, of func(testing.TB, string) string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, path+extension, of(t, string(b)))
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	return path + extension
}

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A log is the same log when files of it are compressed; also those with a tail.
func TestCompressedFiles(t *testing.T) {
	for _, test := range []struct {
		name, extension string
		of              func(testing.TB, string) string
	}{
		{"zstd", ".zst", zstdOf},
		{"gzip", ".gz", gzipOf},
		{"zstd in two frames", ".zst", func(t testing.TB, s string) string { return zstdOf(t, s[:700]) + zstdOf(t, s[700:]) }},
		{"gzip in two members", ".gz", func(t testing.TB, s string) string { return gzipOf(t, s[:700]) + gzipOf(t, s[700:]) }},
		{"zstd by another name", "-copy", zstdOf},
		{"gzip by another name", "-copy", gzipOf},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := sample()
			paths := j.write(t)
			want := check(t, paths, verify.Options{})
			var size int64
			for i, path := range paths {
				paths[i] = compress(t, path, test.extension, test.of)
				info, err := os.Stat(paths[i])
				if err != nil {
					t.Fatal(err)
				}
				size += info.Size()
			}
			var done, total int64
			r := check(t, paths, verify.Options{Progress: func(d, all int64) { done, total = d, all }})
			expectFindings(t, "problems", r.Problems, nil)
			if r.NoteCount != want.NoteCount || r.Head != want.Head || r.Records != want.Records || r.LogID != want.LogID {
				t.Errorf("%+v, want as of %+v", r, want)
			}
			if r.Bytes != size || done != size || total != size {
				t.Errorf("%d bytes were read, of which %d of %d were told, want %d", r.Bytes, done, total, size)
			}
		})
	}
}

// What was tampered with in a compressed file is found as in any other.
func TestTamperedCompressedFile(t *testing.T) {
	cut := func(n int) func(string) string { return func(s string) string { return s[:len(s)-n] } }
	same := func(s string) string { return s }
	for _, test := range []struct {
		name       string
		tamper     func(j *journal)
		compressed func(string) string
		gzip       bool
		want       []string
	}{
		{"a line", func(j *journal) { j.lines["b"][4] = strings.Replace(j.lines["b"][4], "tikv", "pump", 1) }, same, false,
			[]string{"b.zst:5 seq 15: its hash does not fit"}},
		{"a tail", func(j *journal) { j.lines["a"][10] = strings.ToUpper(j.lines["a"][10]) }, same, false,
			[]string{"a.zst:11 seq 11: the file does not end in the 32 bytes"}},
		{"the checksum", nil, cut(1), false, []string{"b.zst:11 seq 21: from here on, the file cannot be read: its compressed content is damaged"}},
		{"the end was cut", nil, cut(200), false, []string{"b.zst:"}},
		{"the checksum, gzip", nil, cut(1), true, []string{"b.gz:11 seq 21: from here on, the file cannot be read"}},
		{"the end was cut, gzip", nil, cut(300), true, []string{"b.gz:"}},
		{"bytes after the end", nil, func(s string) string { return s + "hello" }, false, []string{"b.zst:11 seq 21: from here on, the file cannot be read"}},
		{"bytes after the end, gzip", nil, func(s string) string { return s + "hello, hello" }, true, []string{"b.gz:11 seq 21: from here on"}},
		{"not compressed at all", nil, func(string) string { return "hello" }, false,
			[]string{"b.zst:0 seq 0: no record can be read from it: its compressed content is damaged", "a.zst:11 seq 11: the file ends in 32 bytes", "c:1 seq 21: records 11 to 20 should stand before it"}},
		{"not compressed at all, gzip", nil, func(string) string { return "hello" }, true,
			[]string{"b.gz:0 seq 0: no record can be read from it: its compressed content is damaged", "a.zst:11 seq 11: the file ends in 32 bytes", "c:1 seq 21: records 11 to 20 should stand before it"}},
		{"emptied", nil, func(string) string { return "" }, false,
			[]string{"b.zst:0 seq 0: it is empty", "a.zst:11 seq 11", "c:1 seq 21: records 11 to 20"}},
		{"emptied, gzip", nil, func(string) string { return "" }, true,
			[]string{"b.gz:0 seq 0: ", "a.zst:11 seq 11", "c:1 seq 21: records 11 to 20"}},
		{"a compression of nothing", func(j *journal) { j.lines["b"] = nil }, same, false,
			[]string{"b.zst:0 seq 0: it is empty", "a.zst:11 seq 11", "c:1 seq 21: records 11 to 20"}},
		{"a window of 64 MiB", nil, func(s string) string {
			// Magic, a descriptor without a single segment, the window, the rest.
			return s[:4] + "\x00" + "\x80" + s[6:]
		}, false, []string{"b.zst:0 seq 0: no record can be read from it: its compressed content needs more than 32 MiB of memory to read",
			"a.zst:11 seq 11", "c:1 seq 21: records 11 to 20"}},
		{"a line of 4 MiB", func(j *journal) { j.lines["b"] = slices.Insert(j.lines["b"], 3, strings.Repeat("x", 4<<20)+"\n") }, same, false,
			[]string{"b.zst:4 seq 14: it is longer than 8192 bytes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := sample()
			if test.tamper != nil {
				test.tamper(j)
			}
			paths := j.write(t)
			paths[0] = compress(t, paths[0], ".zst", zstdOf)
			extension, of := ".zst", zstdOf
			if test.gzip {
				extension, of = ".gz", gzipOf
			}
			paths[1] = compress(t, paths[1], extension, func(t testing.TB, s string) string { return test.compressed(of(t, s)) })
			r := check(t, paths, verify.Options{})
			if len(test.want) == 1 && strings.HasSuffix(test.want[0], ":") { // where it breaks off is the compression's business
				if len(r.Problems) != 1 || !strings.HasPrefix(found(r.Problems)[0], test.want[0]) || !strings.Contains(r.Problems[0].What, "to 20 should be there") {
					t.Errorf("%v", found(r.Problems))
				}
				return
			}
			expectFindings(t, "problems", r.Problems, test.want)
		})
	}
}

// A file that cannot be read to its end is one problem, and the log goes on.
func TestDamageInTheMiddle(t *testing.T) {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	j.add("a", c.createSigned(newSigner(1)))
	for range 3000 {
		j.add("a", c.unwrap())
	}
	j.add("b", c.rotate(newSigner(1), newSigner(2)), c.checkpoint(newSigner(2)))
	paths := j.write(t)
	paths[0] = compress(t, paths[0], ".zst", func(t testing.TB, s string) string {
		whole := zstdOf(t, s)
		return whole[:len(whole)/2]
	})
	r := check(t, paths, verify.Options{})
	if len(r.Problems) != 1 || filepath.Base(r.Problems[0].File) != "a.zst" || r.Problems[0].Line < 2 || r.Problems[0].Line > 3001 || !strings.Contains(r.Problems[0].What, " to 3001 should be there") {
		t.Errorf("%v", found(r.Problems))
	}
	if r.Head.Seq != 3003 || r.Signed.Seq != 3002 {
		t.Errorf("head %d, signed up to %d", r.Head.Seq, r.Signed.Seq)
	}
}

// While a file is compressed, both are there, and after that only one: whoever has
// a list of the files from before finds the log whole all the same.
func TestFileThatIsBeingCompressed(t *testing.T) {
	j := sample()
	paths := j.write(t)
	text := strings.Join(j.lines["b"], "")
	writeFile(t, paths[1]+".zst", zstdOf(t, text)[:100])
	given := append(slices.Clone(paths), paths[1]+".zst")
	r := check(t, given, verify.Options{})
	expectFindings(t, "problems", r.Problems, nil)
	if r.Files != 5 || !slices.ContainsFunc(r.Notes, func(f verify.Finding) bool {
		return f.File == paths[1]+".zst" && strings.Contains(f.What, "it is not read: "+paths[1]+", of which it should be the compression, was given too")
	}) {
		t.Errorf("%d files, %v", r.Files, found(r.Notes))
	}

	writeFile(t, paths[1]+".zst", zstdOf(t, text))
	if err := os.Remove(paths[1]); err != nil {
		t.Fatal(err)
	}
	for _, given := range [][]string{paths, given} {
		r = check(t, given, verify.Options{})
		expectFindings(t, "problems", r.Problems, nil)
		if r.Files != 5 || r.Records != 50 {
			t.Errorf("%+v", r)
		}
	}
}

// Nobody is writing a compressed file, so its end is not waited for.
func TestUnfinishedLineInCompressedFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := sample()
		j.lines["e"][9] = j.lines["e"][9][:120]
		paths := j.write(t)
		paths[4] = compress(t, paths[4], ".zst", zstdOf)
		began := time.Now()
		r := check(t, paths, verify.Options{})
		expectFindings(t, "problems", r.Problems, []string{"e.zst:10 seq 50: the file ends in 120 bytes that are no whole record"})
		if waited := time.Since(began); waited != 0 {
			t.Errorf("it waited for %v", waited)
		}
	})
}

// A file without a record can be compressed, and accounted for, too.
func TestCompressedFileWithoutRecord(t *testing.T) {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	j.add("a", c.create(), c.unwrap())
	j.add("b", "\x00\x00\x00")
	j.add("c", c.repair("torn_tail", "b", "\x00\x00\x00", 2), c.unwrap())
	paths := j.write(t)
	paths[1] = compress(t, paths[1], ".zst", zstdOf)
	r := check(t, paths, verify.Options{})
	expectFindings(t, "problems", r.Problems, nil)
	expectFindings(t, "notes", r.Notes, []string{"b.zst:0 seq 0: its 3 bytes are no record, as record 3", "c:1 seq 3: torn_tail"})
}
