package verify_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/keybroker/keybroker/audit/verify"
)

const (
	bigFiles   = 5
	bigFile    = 20_000 / shrink // records
	bigSigned  = 1000 / shrink   // records from checkpoint to checkpoint
	bigRecords = bigFiles * bigFile
)

// bigLog is a log of 100,000 records in five files, each signed by a key of its
// own.
type bigLog struct {
	lines []string // record n is lines[n-1]
	paths []string
}

// emit makes the next record of c: what stands there in a big log. by is the
// signer of the file n; nil: nobody signs.
func emit(c *chain, by func(n int) *signer) string {
	file, at := int(c.seq)/bigFile, int(c.seq)%bigFile
	signed := by(file) != nil
	switch {
	case c.seq == 0:
		return c.createSigned(by(0))
	case at == 0 && signed:
		return c.rotate(by(file-1), by(file))
	case at == 0:
		return c.line(`"event":"rotate","outcome":"ok","log":"` + c.id + `"`)
	case at%bigSigned == bigSigned-1 && signed:
		return c.checkpoint(by(file))
	}
	return c.line(`"event":"unwrap","outcome":"ok","code":"OK","client":{"name":"tikv","uid":998},"key":"tikv"`)
}

func honest(n int) *signer { return newSigner(byte(n + 1)) }

// signersOnce makes the keys once: making one takes long.
func signersOnce(by func(n int) *signer) func(n int) *signer {
	keys := map[int]*signer{}
	return func(n int) *signer {
		if _, made := keys[n]; !made {
			keys[n] = by(n)
		}
		return keys[n]
	}
}

func newBigLog(t *testing.T) *bigLog {
	t.Helper()
	l, c, by := &bigLog{}, newChain(logID), signersOnce(honest)
	for range bigRecords {
		l.lines = append(l.lines, emit(c, by))
	}
	dir := t.TempDir()
	for n := range bigFiles {
		path := filepath.Join(dir, fmt.Sprintf("audit.jsonl.%020d", n*bigFile+1))
		if n == bigFiles-1 {
			path = filepath.Join(dir, "audit.jsonl")
		}
		writeFile(t, path, strings.Join(l.file(n), ""))
		l.paths = append(l.paths, path)
	}
	return l
}

// file is the lines of the file n.
func (l *bigLog) file(n int) []string { return l.lines[n*bigFile : (n+1)*bigFile] }

// name is the name of the file n.
func (l *bigLog) name(n int) string { return filepath.Base(l.paths[n]) }

// with is the paths, those of some files being of others that hold these lines.
// No line: the file is not there.
func (l *bigLog) with(t *testing.T, changed map[int][]string) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for n, path := range l.paths {
		lines, is := changed[n]
		if is && len(lines) == 0 {
			continue
		}
		if is {
			path = filepath.Join(dir, filepath.Base(path))
			writeFile(t, path, strings.Join(lines, ""))
		}
		paths = append(paths, path)
	}
	return paths
}

// forked is the files from that of record seq on, made anew from this record on.
func (l *bigLog) forked(seq int, by func(n int) *signer) map[int][]string {
	c := newChain(logID)
	c.seq, c.prev = uint64(seq-1), hashOf(l.lines[seq-2])
	lines := slices.Clone(l.lines[:seq-1])
	lines = append(lines, c.line(`"event":"unwrap","outcome":"denied"`))
	by = signersOnce(by)
	for len(lines) < bigRecords {
		lines = append(lines, emit(c, by))
	}
	forked := &bigLog{lines: lines}
	changed := map[int][]string{}
	for n := (seq - 1) / bigFile; n < bigFiles; n++ {
		changed[n] = forked.file(n)
	}
	return changed
}

// place is where record seq stands, as FILE:LINE.
func (l *bigLog) place(seq int) string {
	return fmt.Sprintf("%s:%d", l.name((seq-1)/bigFile), (seq-1)%bigFile+1)
}

// nextSigned is the first record after seq that has a checkpoint.
func nextSigned(seq int) int {
	for seq++; ; seq++ {
		if at := (seq - 1) % bigFile; seq > 1 && (at == 0 || at%bigSigned == bigSigned-1) {
			return seq
		}
	}
}

// Whatever is done to a log, and wherever, is found there.
func TestTamperedBigLog(t *testing.T) {
	if testing.Short() {
		t.Skip("reads a log of 100,000 records again and again")
	}
	l := newBigLog(t)
	first, last := newSigner(1).key(t), external(t, bigRecords, l.lines[bigRecords-1], newSigner(bigFiles))
	edit := func(line string) string { return strings.Replace(line, `"outcome":"ok"`, `"outcome":"no"`, 1) }
	kinds := []struct {
		name string
		// tamper returns what is given to the verifier, and the first problem as
		// FILE:LINE seq N, a colon, and a part of what it says. An empty file: it
		// is found, and how depends on the place.
		tamper func(t *testing.T, random *rand.Rand) (paths []string, want string)
		// elsewhere: only a checkpoint that was kept elsewhere tells.
		elsewhere bool
	}{
		{name: "edit a byte", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 1 + random.IntN(bigRecords)
			n, at := (seq-1)/bigFile, (seq-1)%bigFile
			lines := slices.Clone(l.file(n))
			b := []byte(lines[at])
			i := random.IntN(len(b) - 1)
			for old := b[i]; b[i] == old || b[i] == '\n'; {
				b[i] = byte(random.Uint32())
			}
			lines[at] = string(b)
			return l.with(t, map[int][]string{n: lines}), l.place(seq) + " "
		}},
		{name: "edit a record and hash it again", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 1 + random.IntN(bigRecords-1)
			n, at := (seq-1)/bigFile, (seq-1)%bigFile
			lines := slices.Clone(l.file(n))
			lines[at] = finish(edit(lines[at])[:len(lines[at])-76])
			return l.with(t, map[int][]string{n: lines}), fmt.Sprintf("%s seq %d: the hash that it names is not that of the line before it", l.place(seq+1), seq+1)
		}},
		{name: "delete a record", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 2 + random.IntN(bigRecords-2)
			n, at := (seq-1)/bigFile, (seq-1)%bigFile
			place := l.place(seq) // where the next one stands then
			if at == bigFile-1 {
				place = l.place(seq + 1)
			}
			return l.with(t, map[int][]string{n: slices.Delete(slices.Clone(l.file(n)), at, at+1)}),
				fmt.Sprintf("%s seq %d: record %d should stand before it, and does not", place, seq+1, seq)
		}},
		{name: "insert a record", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 2 + random.IntN(bigRecords-2)
			n, at := (seq-1)/bigFile, (seq-1)%bigFile
			if at == 0 {
				seq, at = seq+1, at+1
			}
			c := newChain(logID)
			c.seq, c.prev = uint64(seq-1), hashOf(l.lines[seq-2])
			lines := slices.Insert(slices.Clone(l.file(n)), at, c.unwrap())
			return l.with(t, map[int][]string{n: lines}), fmt.Sprintf("%s:%d seq %d: record %d should stand here", l.name(n), at+2, seq, seq+1)
		}},
		{name: "exchange two records", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			n, i := random.IntN(bigFiles), 1+random.IntN(bigFile-3)
			k := i + 1 + random.IntN(bigFile-i-2)
			lines := slices.Clone(l.file(n))
			lines[i], lines[k] = lines[k], lines[i]
			return l.with(t, map[int][]string{n: lines}), fmt.Sprintf("%s:%d seq %d: ", l.name(n), i+1, n*bigFile+k+1)
		}},
		{name: "write a record twice", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			n, i := random.IntN(bigFiles), random.IntN(bigFile-1)
			k := i + 1 + random.IntN(bigFile-i-1)
			lines := slices.Insert(slices.Clone(l.file(n)), k, l.file(n)[i])
			return l.with(t, map[int][]string{n: lines}), fmt.Sprintf("%s:%d seq %d: record %d should stand here", l.name(n), k+1, n*bigFile+i+1, n*bigFile+k+1)
		}},
		{name: "exchange parts of two files", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			n := random.IntN(bigFiles - 1)
			m := n + 1 + random.IntN(bigFiles-n-1)
			i, length := 1+random.IntN(bigFile/2), 1+random.IntN(bigFile/3)
			one, other := slices.Clone(l.file(n)), slices.Clone(l.file(m))
			copy(one[i:i+length], l.file(m)[i:])
			copy(other[i:i+length], l.file(n)[i:])
			return l.with(t, map[int][]string{n: one, m: other}), fmt.Sprintf("%s:%d seq %d: records ", l.name(n), i+1, m*bigFile+i+1)
		}},
		{name: "cut the end of a file", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			n, i := random.IntN(bigFiles-1), 1+random.IntN(bigFile-1)
			return l.with(t, map[int][]string{n: l.file(n)[:i]}), fmt.Sprintf("%s:1 seq %d: record", l.name(n+1), (n+1)*bigFile+1)
		}},
		{name: "remove a file", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			n := 1 + random.IntN(bigFiles-2)
			return l.with(t, map[int][]string{n: nil}), fmt.Sprintf("%s:1 seq %d: records %d to %d should stand before it", l.name(n+1), (n+1)*bigFile+1, n*bigFile+1, (n+1)*bigFile)
		}},
		{name: "cut the log's end", elsewhere: true, tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 1 + random.IntN(bigRecords-1)
			n := (seq - 1) / bigFile
			changed := map[int][]string{n: l.lines[n*bigFile : seq]}
			for m := n + 1; m < bigFiles; m++ {
				changed[m] = nil
			}
			return l.with(t, changed), fmt.Sprintf("%s:0 seq %d: the log ends with record %d, and record %d is known from the checkpoint", l.name(n), bigRecords, seq, bigRecords)
		}},
		{name: "write all anew, with the old signatures", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 3*bigFile + 2 + random.IntN(2*bigFile-bigSigned-2)
			changed := l.forked(seq, func(n int) *signer {
				return &signer{honest(n), bytes.Repeat([]byte{byte(n)}, 64), honest(n).vkey} // which nobody else can make
			})
			return l.with(t, changed), fmt.Sprintf("%s seq %d: its checkpoint is not signed by the key", l.place(nextSigned(seq)), nextSigned(seq))
		}},
		{name: "write all anew, and sign it with another key", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 3*bigFile + 2 + random.IntN(2*bigFile-bigSigned-2)
			return l.with(t, l.forked(seq, func(n int) *signer { return newSigner(byte(100 + n)) })),
				fmt.Sprintf("%s seq %d: the key %s signs, and should be", l.place(nextSigned(seq)), nextSigned(seq), newSigner(byte(100+(nextSigned(seq)-2)/bigFile)).key(t).ID())
		}},
		{name: "write all anew, and sign it with a former key", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 3*bigFile + 2 + random.IntN(2*bigFile-bigSigned-2)
			return l.with(t, l.forked(seq, func(int) *signer { return newSigner(3) })),
				fmt.Sprintf("%s seq %d: the key %s signs, and should be", l.place(nextSigned(seq)), nextSigned(seq), newSigner(3).key(t).ID())
		}},
		{name: "write the last file anew, and sign it no more", elsewhere: true, tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			seq := 4*bigFile + 2 + random.IntN(bigFile-2)
			return l.with(t, l.forked(seq, func(int) *signer { return nil })), fmt.Sprintf("%s seq %d: its hash is ", l.place(bigRecords), bigRecords)
		}},
		{name: "change a byte of a compressed file", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			n := random.IntN(bigFiles)
			compressed := []byte(l.compressed(t, n))
			compressed[random.IntN(len(compressed))] ^= byte(1 + random.IntN(255))
			return l.withCompressed(t, n, compressed), ""
		}},
		{name: "edit a byte, and compress the file", tamper: func(t *testing.T, random *rand.Rand) ([]string, string) {
			n, at := random.IntN(bigFiles), random.IntN(bigFile)
			lines := slices.Clone(l.file(n))
			lines[at] = edit(lines[at])
			edited := &bigLog{lines: slices.Concat(make([]string, n*bigFile), lines)}
			return l.withCompressed(t, n, []byte(edited.compressed(t, n))), fmt.Sprintf("%s.zst:%d seq %d: its hash does not fit its text", l.name(n), at+1, n*bigFile+at+1)
		}},
	}
	whole := verify.Options{Key: first, Checkpoints: []*verify.Checkpoint{last}}
	if r := check(t, l.paths, whole); !r.OK() || r.Records != bigRecords || r.Signed.Keys != bigFiles || r.Signed.Checkpoints != bigRecords/bigSigned+bigFiles-1 {
		t.Fatalf("as it is: %v, %+v", found(r.Problems), r)
	}
	for i, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			const seed, times = 6, 3
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for range times {
				paths, want := kind.tamper(t, random)
				o := verify.Options{Key: first}
				if kind.elsewhere {
					if r := check(t, paths, o); !r.OK() {
						t.Errorf("it is found without a checkpoint from elsewhere: %v", found(r.Problems))
					}
					o = whole
				}
				got := found(check(t, paths, o).Problems)
				place, text, _ := strings.Cut(want, ": ")
				if len(got) == 0 || !strings.HasPrefix(got[0], place) || !strings.Contains(got[0], text) {
					t.Errorf("%s\nwant %s", strings.Join(got, "\n"), want)
				}
			}
		})
	}
}

// compressed is the file n, compressed.
func (l *bigLog) compressed(t *testing.T, n int) string {
	t.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	return string(w.EncodeAll([]byte(strings.Join(l.file(n), "")), nil))
}

// withCompressed is the paths, that of the file n being of one with this content.
func (l *bigLog) withCompressed(t *testing.T, n int, compressed []byte) []string {
	t.Helper()
	paths := slices.Clone(l.paths)
	paths[n] = filepath.Join(t.TempDir(), l.name(n)+".zst")
	if err := os.WriteFile(paths[n], compressed, 0o600); err != nil {
		t.Fatal(err)
	}
	return paths
}
