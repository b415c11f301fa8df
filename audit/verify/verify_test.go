package verify_test

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keybroker/keybroker/audit/verify"
)

func headOf(t testing.TB, seq uint64, line string) verify.Head {
	t.Helper()
	h := verify.Head{Seq: seq}
	if _, err := hex.Decode(h.Hash[:], []byte(hashOf(line))); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestWholeLog(t *testing.T) {
	j := sample()
	paths := j.write(t)
	var told [][2]int64
	head := headOf(t, 50, j.lines["e"][9])
	r := check(t, paths, verify.Options{
		ExpectHead: &head,
		Progress:   func(done, total int64) { told = append(told, [2]int64{done, total}) },
	})
	expectFindings(t, "problems", r.Problems, nil)
	expectFindings(t, "notes", r.Notes, []string{
		`b:1 seq 11: the log goes on in a new file (reason "torn_tail"); the one before ends in 32 bytes that are no whole record, as this one says`,
		`e:1 seq 41: the one before ends in 54 bytes`,
	})
	var size int64
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if r.LogID != logID || r.Files != 5 || r.Records != 50 || r.FirstSeq != 1 || r.Head != head || r.Bytes != size || r.Lost != 0 {
		t.Errorf("%+v", r)
	}
	if want := [2]int64{size, size}; len(told) == 0 || told[len(told)-1] != want {
		t.Errorf("progress was told %v, want %v at the end", told, want)
	}
}

// The order in which files are given says nothing.
func TestAnyOrder(t *testing.T) {
	paths := sample().write(t)
	want := check(t, paths, verify.Options{})
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		random.Shuffle(len(paths), func(i, k int) { paths[i], paths[k] = paths[k], paths[i] })
		got := check(t, paths, verify.Options{})
		if got.Head != want.Head || got.Records != want.Records || !got.OK() {
			t.Fatalf("%v: %+v", paths, got)
		}
	}
}

// Files that were joined are what they were before.
func TestJoinedFiles(t *testing.T) {
	j := sample()
	joined := &journal{lines: map[string][]string{}}
	joined.add("bc", append(slices.Clone(j.lines["b"]), j.lines["c"]...)...)
	r := check(t, joined.write(t), verify.Options{})
	if !r.OK() || r.Records != 20 {
		t.Errorf("%+v", r)
	}
}

// Each kind of tampering is found where it is, and once.
func TestTampering(t *testing.T) {
	// rehash gives a line the hash of its text.
	rehash := func(line string) string { return finish(line[:len(line)-76]) }
	edit := func(line string) string { return strings.Replace(line, `"outcome":"ok"`, `"outcome":"denied"`, 1) }
	for _, test := range []struct {
		name   string
		tamper func(*journal)
		want   []string
		expect bool // only a head kept elsewhere tells
	}{
		{name: "nothing", tamper: func(*journal) {}},
		{name: "edit", tamper: func(j *journal) { l := j.lines["c"]; l[4] = edit(l[4]) },
			want: []string{"c:5 seq 25: its hash does not fit its text"}},
		{name: "edit two lines far apart", tamper: func(j *journal) {
			l := j.lines["c"]
			l[2], l[7] = edit(l[2]), edit(l[7])
		}, want: []string{"c:3 seq 23: its hash", "c:8 seq 28: its hash"}},
		{name: "edit three lines in a row", tamper: func(j *journal) {
			l := j.lines["c"]
			l[2], l[3], l[4] = edit(l[2]), edit(l[3]), edit(l[4])
		}, want: []string{"c:3 seq 23: its hash does not fit its text: it was changed after it was written; nor are the 2 lines after it records"}},
		{name: "edit the last line of a file", tamper: func(j *journal) { l := j.lines["b"]; l[9] = edit(l[9]) },
			want: []string{"b:10 seq 20: its hash"}},
		{name: "edit the first line of the log", tamper: func(j *journal) { l := j.lines["a"]; l[0] = edit(l[0]) },
			want: []string{"a:1 seq 1: its hash"}},
		{name: "edit the last line of the log", tamper: func(j *journal) { l := j.lines["e"]; l[9] = edit(l[9]) },
			want: []string{"e:10 seq 50: its hash"}},
		{name: "edit and hash again", tamper: func(j *journal) { l := j.lines["c"]; l[4] = rehash(edit(l[4])) },
			want: []string{"c:6 seq 26: the hash that it names is not that of the line before it"}},
		{name: "edit the last line of a file and hash again", tamper: func(j *journal) { l := j.lines["b"]; l[9] = rehash(edit(l[9])) },
			want: []string{"c:1 seq 21: the hash that it names is not that of the line before it"}},
		{name: "edit a repair record and hash again", tamper: func(j *journal) {
			l := j.lines["b"]
			l[0] = rehash(strings.Replace(l[0], `"tail_bytes":32`, `"tail_bytes":31`, 1))
		}, want: []string{"a:11 seq 11: the file does not end in the 31 bytes that record 11", "b:2 seq 12: the hash that it names"}},

		{name: "delete a line", tamper: func(j *journal) { j.lines["c"] = slices.Delete(j.lines["c"], 4, 5) },
			want: []string{"c:5 seq 26: record 25 should stand before it, and does not"}},
		{name: "delete four lines", tamper: func(j *journal) { j.lines["c"] = slices.Delete(j.lines["c"], 4, 8) },
			want: []string{"c:5 seq 29: records 25 to 28 should stand before it, and do not"}},
		{name: "delete the first line of a file", tamper: func(j *journal) { j.lines["c"] = j.lines["c"][1:] },
			want: []string{"c:1 seq 22: record 21 should stand before it"}},
		{name: "delete a repair record", tamper: func(j *journal) { j.lines["b"] = j.lines["b"][1:] },
			want: []string{"a:11 seq 11: the file ends in 32 bytes that are no whole record, and for which the first record of the next file does not account",
				"b:1 seq 12: record 11 should stand before it"}},
		{name: "delete the first line of the log", tamper: func(j *journal) { j.lines["a"] = j.lines["a"][1:] },
			want: []string{"a:1 seq 2: the first record of a file names the log, and this one does not: lines before it are missing"}},
		{name: "delete the last line of a file", tamper: func(j *journal) { j.lines["c"] = j.lines["c"][:9] },
			want: []string{"d:1 seq 31: record 30 should stand before it"}},
		{name: "cut the head of a file within a line", tamper: func(j *journal) {
			j.lines["c"] = append([]string{j.lines["c"][3][20:]}, j.lines["c"][4:]...)
		}, want: []string{"c:1 seq 21: its hash", "c:2 seq 25: records 22 to 24 should stand before it"}},
		{name: "cut the end of a middle file within a line", tamper: func(j *journal) {
			j.lines["b"] = append(j.lines["b"][:5], j.lines["b"][5][:100])
		}, want: []string{"b:6 seq 16: the file ends in 100 bytes that are no whole record, and for which", "c:1 seq 21: records 16 to 20 should stand before it"}},
		{name: "cut the middle of a file", tamper: func(j *journal) {
			l := j.lines["c"]
			j.lines["c"] = append([]string{l[0], l[1], l[2][:50] + l[6][80:]}, l[7:]...)
		}, want: []string{"c:3 seq 23: its hash", "c:4 seq 28: records 24 to 27 should stand before it"}},
		{name: "empty a middle file", tamper: func(j *journal) { j.lines["c"] = nil },
			want: []string{"c:0 seq 0: it is empty", "d:1 seq 31: records 21 to 30 should stand before it"}},
		{name: "drop a middle file", tamper: func(j *journal) { j.names = []string{"a", "b", "d", "e"} },
			want: []string{"d:1 seq 31: records 21 to 30 should stand before it"}},
		{name: "drop the file that accounts for a tail", tamper: func(j *journal) { j.names = []string{"a", "c", "d", "e"} },
			want: []string{"a:11 seq 11: the file ends in 32 bytes that are no whole record", "c:1 seq 21: records 11 to 20 should stand before it"}},
		{name: "drop the file with the tail", tamper: func(j *journal) { j.names = []string{"a", "b", "c", "e"} },
			want: []string{"e:1 seq 41: records 31 to 40 should stand before it"}},
		{name: "drop the first file", tamper: func(j *journal) { j.names = j.names[1:] }},
		{name: "drop the first file though its head is known", expect: true, tamper: func(j *journal) { j.names = []string{"e"} },
			want: []string{"e:0 seq 30: the files begin with record 41, so record 30, which is known from elsewhere, cannot be compared"}},
		{name: "drop the last file", expect: true, tamper: func(j *journal) { j.names = []string{"a", "b"} },
			want: []string{"b:0 seq 30: the log ends with record 20, and record 30 is known from elsewhere"}},
		{name: "drop all lines at the end", expect: true, tamper: func(j *journal) {
			j.names = []string{"a", "b", "c"}
			j.lines["c"] = j.lines["c"][:9]
		}, want: []string{"c:0 seq 30: the log ends with record 29, and record 30 is known from elsewhere"}},
		{name: "edit the line that is known from elsewhere", expect: true, tamper: func(j *journal) { l := j.lines["c"]; l[9] = edit(l[9]) },
			want: []string{"c:10 seq 30: its hash does not fit", "e:0 seq 30: record 30, which is known from elsewhere, is not in the files"}},

		{name: "insert a copy", tamper: func(j *journal) { j.lines["c"] = slices.Insert(j.lines["c"], 7, j.lines["c"][2]) },
			want: []string{"c:8 seq 23: record 28 should stand here: this one is a copy, or stands in the wrong place"}},
		{name: "insert a copy of the line before", tamper: func(j *journal) { j.lines["c"] = slices.Insert(j.lines["c"], 3, j.lines["c"][2]) },
			want: []string{"c:4 seq 23: record 24 should stand here: this one is a copy"}},
		{name: "insert a line that nobody wrote", tamper: func(j *journal) {
			forged := newChain(logID)
			forged.seq, forged.prev = 1000, hashOf(j.lines["c"][6])
			j.lines["c"] = slices.Insert(j.lines["c"], 7, forged.unwrap())
		}, want: []string{"c:8 seq 1001: records 28 to 1000 should stand before it"}},
		{name: "insert a line with the right number", tamper: func(j *journal) {
			forged := newChain(logID)
			forged.seq, forged.prev = 27, hashOf(j.lines["c"][6])
			j.lines["c"] = slices.Insert(j.lines["c"], 7, forged.unwrap())
		}, want: []string{"c:9 seq 28: record 29 should stand here"}},
		{name: "insert text", tamper: func(j *journal) { j.lines["c"] = slices.Insert(j.lines["c"], 7, "hello\n") },
			want: []string{"c:8 seq 28: it does not end as a record does"}},
		{name: "insert a blank line", tamper: func(j *journal) { j.lines["c"] = slices.Insert(j.lines["c"], 7, "\n") },
			want: []string{"c:8 seq 28: it is blank"}},
		{name: "insert many blank lines", tamper: func(j *journal) {
			j.lines["c"] = slices.Insert(j.lines["c"], 7, strings.Repeat("\n", 1000))
		}, want: []string{"c:8 seq 28: it is blank; nor are the 999 lines after it records"}},
		{name: "insert NUL bytes", tamper: func(j *journal) { j.lines["c"] = slices.Insert(j.lines["c"], 7, strings.Repeat("\x00", 5000)) },
			want: []string{"c:8 seq 28: it holds NUL bytes"}},
		{name: "insert NUL bytes within a line", tamper: func(j *journal) { l := j.lines["c"]; l[7] = l[7][:9] + "\x00" + l[7][9:] },
			want: []string{"c:8 seq 28: it holds NUL bytes"}},
		{name: "insert a line of a megabyte", tamper: func(j *journal) {
			j.lines["c"] = slices.Insert(j.lines["c"], 7, strings.Repeat("x", 1<<20)+"\n")
		}, want: []string{"c:8 seq 28: it is longer than 8192 bytes"}},
		{name: "insert NUL bytes at the end of a long line", tamper: func(j *journal) {
			j.lines["c"] = slices.Insert(j.lines["c"], 7, strings.Repeat("x", 300<<10)+"\x00\n")
		}, want: []string{"c:8 seq 28: it holds NUL bytes"}},
		{name: "write CRLF", tamper: func(j *journal) { j.lines["c"][5] = strings.Replace(j.lines["c"][5], "\n", "\r\n", 1) },
			want: []string{"c:6 seq 26: it ends in a carriage return and a newline"}},
		{name: "write CRLF everywhere", tamper: func(j *journal) {
			for i, l := range j.lines["c"] {
				j.lines["c"][i] = strings.Replace(l, "\n", "\r\n", 1)
			}
		}, want: []string{"c:1 seq 21: it ends in a carriage return and a newline: something that takes it for text has rewritten it; nor are the 9 lines after it records"}},
		{name: "join two lines", tamper: func(j *journal) { l := j.lines["c"]; l[5] = strings.TrimSuffix(l[5], "\n") },
			want: []string{"c:6 seq 26: its hash", "c:7 seq 28: record 27 should stand before it"}},

		{name: "swap neighbours", tamper: func(j *journal) { l := j.lines["c"]; l[4], l[5] = l[5], l[4] },
			want: []string{"c:5 seq 26: record 25 should stand before it"}},
		{name: "swap lines far apart", tamper: func(j *journal) { l := j.lines["c"]; l[2], l[8] = l[8], l[2] },
			want: []string{"c:3 seq 29: records 23 to 28 should stand before it", "c:9 seq 23: record 29 should stand here"}},
		{name: "swap lines of two files", tamper: func(j *journal) { j.lines["b"][4], j.lines["c"][4] = j.lines["c"][4], j.lines["b"][4] },
			want: []string{"b:5 seq 25: records 15 to 24 should stand before it", "c:5 seq 15: record 25 should stand here"}},
		{name: "move a line to the end", tamper: func(j *journal) {
			l := j.lines["c"]
			j.lines["c"] = append(slices.Delete(slices.Clone(l), 3, 4), l[3])
		}, want: []string{"c:4 seq 25: record 24 should stand before it", "c:10 seq 24: record 31 should stand here"}},

		{name: "a file twice", tamper: func(j *journal) { j.add("copy", j.lines["b"]...) },
			want: []string{"copy:1 seq 11: the file begins with it, and the files before go up to record 20: it is a copy, or of a fork of the log"}},
		{name: "a copy of the first file", tamper: func(j *journal) { j.add("copy", j.lines["a"]...) },
			want: []string{"copy:1 seq 1: it is a copy, or of a fork"}},
		{name: "a copy of part of a file", tamper: func(j *journal) { j.add("part", j.lines["c"][4:8]...) },
			want: []string{"part:1 seq 25: it is a copy, or of a fork"}},
		{name: "a fork", tamper: func(j *journal) {
			c := newChain(logID)
			c.seq, c.prev = 30, hashOf(j.lines["c"][9])
			j.add("fork", c.line(`"event":"rotate","outcome":"ok","log":"`+logID+`"`), c.unwrap(), c.unwrap())
		}, want: []string{"fork:1 seq 31: it is a copy, or of a fork"}},
		{name: "a file of another log", tamper: func(j *journal) {
			c := newChain(otherID)
			j.add("other", c.create(), c.unwrap())
		}, want: []string{"other:1 seq 1: the file is of another log: its id is \"" + otherID}},
		{name: "a record of another log", tamper: func(j *journal) {
			c := newChain(otherID)
			j.lines["c"] = slices.Insert(j.lines["c"], 3, c.create())
		}, want: []string{"c:4 seq 1: record 24 should stand here", "c:4 seq 1: it is of another log"}},
		{name: "a file that is no log", tamper: func(j *journal) { j.add("notes", "hello\n", "world\n") },
			want: []string{"notes:1 seq 0: no line of the file is a record; of the first one: it does not end as a record does"}},

		{name: "append garbage to the last file", tamper: func(j *journal) { j.add("e", "garbage") },
			want: []string{"e:11 seq 51: the file ends in 7 bytes that are no whole record: if a broker is writing it"}},
		{name: "append a line of garbage to the last file", tamper: func(j *journal) { j.add("e", "garbage\n") },
			want: []string{"e:11 seq 51: it does not end as a record does"}},
		{name: "append NUL bytes to the last file", tamper: func(j *journal) { j.add("e", strings.Repeat("\x00", 1<<20)) },
			want: []string{"e:11 seq 51: the file ends in 1048576 bytes that are no whole record"}},
		{name: "append garbage to a middle file", tamper: func(j *journal) { j.add("c", "garbage") },
			want: []string{"c:11 seq 31: the file ends in 7 bytes that are no whole record, and for which"}},
		{name: "append to a tail", tamper: func(j *journal) { j.add("a", "x") },
			want: []string{"a:11 seq 11: the file does not end in the 32 bytes that record 11"}},
		{name: "edit a tail", tamper: func(j *journal) { j.lines["a"][10] = strings.ToUpper(j.lines["a"][10]) },
			want: []string{"a:11 seq 11: the file does not end in the 32 bytes that record 11"}},
		{name: "cut a tail", tamper: func(j *journal) { j.lines["a"][10] = j.lines["a"][10][:31] },
			want: []string{"a:11 seq 11: the file does not end in the 32 bytes that record 11"}},
		{name: "remove a tail", tamper: func(j *journal) { j.lines["a"] = j.lines["a"][:10] },
			want: []string{"a:10 seq 0: the file does not end in the 32 bytes that record 11"}},
		{name: "edit a tail of NUL bytes", tamper: func(j *journal) { j.lines["d"][10] = strings.Replace(nulTail, "42", "43", 1) },
			want: []string{"d:11 seq 41: the file does not end in the 54 bytes that record 41"}},
		{name: "edit before a tail", tamper: func(j *journal) { l := j.lines["a"]; l[9] = edit(l[9]) },
			want: []string{"a:10 seq 10: its hash"}},
		{name: "insert before a tail", tamper: func(j *journal) { j.lines["a"] = slices.Insert(j.lines["a"], 10, "x\n") },
			want: []string{"a:11 seq 11: it does not end as a record does"}},

		{name: "write all anew from a record on", expect: true, tamper: func(j *journal) {
			c := newChain(logID)
			c.seq, c.prev = 24, hashOf(j.lines["c"][3])
			j.lines["c"] = j.lines["c"][:4]
			for range 6 {
				j.add("c", c.unwrap())
			}
			j.names = []string{"a", "b", "c"}
		}, want: []string{"c:10 seq 30: and " /* both hashes */}},
		{name: "write a middle file anew", tamper: func(j *journal) {
			c := newChain(logID)
			c.seq, c.prev = 24, hashOf(j.lines["c"][3])
			j.lines["c"] = j.lines["c"][:4]
			for range 6 {
				j.add("c", c.line(`"event":"unwrap","outcome":"denied"`))
			}
		}, want: []string{"d:1 seq 31: the hash that it names is not that of the line before it"}},
		{name: "write the first record anew", tamper: func(j *journal) {
			c := newChain(logID)
			c.prev = strings.Repeat("0", 63) + "1"
			j.names, j.lines["a"] = []string{"a"}, []string{c.create(), c.unwrap()}
		}, want: []string{"a:1 seq 1: it is the first record of the log, and names another hash than 64 zeros"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := sample()
			head := headOf(t, 30, j.lines["c"][9])
			test.tamper(j)
			paths := j.write(t)
			plain := check(t, paths, verify.Options{})
			expected := check(t, paths, verify.Options{ExpectHead: &head})
			if test.expect {
				expectFindings(t, "problems with an expected head", expected.Problems, test.want)
				if len(plain.Problems) >= len(expected.Problems) {
					t.Errorf("it is found without an expected head too: %v", found(plain.Problems))
				}
				return
			}
			expectFindings(t, "problems", plain.Problems, test.want)
			if len(expected.Problems) < len(plain.Problems) {
				t.Errorf("an expected head hides problems: %v", found(expected.Problems))
			}
		})
	}
}

// Whatever byte of the log is changed, the line it stands in is named.
func TestEveryByte(t *testing.T) {
	j := sample()
	const stride = 29
	for _, name := range j.names {
		paths := j.write(t)
		path := paths[slices.Index(j.names, name)]
		original := []byte(strings.Join(j.lines[name], ""))
		for at := 0; at < len(original); at += stride {
			b := slices.Clone(original)
			b[at] ^= 1 << (at % 8)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			line := 1 + strings.Count(string(original[:at]), "\n")
			if line > 11 {
				line = 11 // within a tail; the tail as a whole is named
			}
			r := check(t, paths, verify.Options{})
			if !slices.ContainsFunc(r.Problems, func(f verify.Finding) bool { return f.File == path && f.Line == line }) {
				t.Fatalf("%s: byte %d, in line %d: %v", name, at, line, found(r.Problems))
			}
			if len(r.Problems) > 2 {
				t.Fatalf("%s: byte %d: one byte makes more than two problems: %v", name, at, found(r.Problems))
			}
		}
	}
}

// Whatever prefix is left of the last file, it is whole or its end is named; of
// another file, something is missing.
func TestEveryPrefix(t *testing.T) {
	synctest.Test(t, testEveryPrefix) // so that nothing waits for a line to end
}

func testEveryPrefix(t *testing.T) {
	j := sample()
	paths := j.write(t)
	const stride = 19
	for i, name := range j.names {
		whole := strings.Join(j.lines[name], "")
		for n := 0; n < len(whole); n += stride {
			if err := os.WriteFile(paths[i], []byte(whole[:n]), 0o600); err != nil {
				t.Fatal(err)
			}
			r := check(t, paths, verify.Options{})
			lastFile := i == len(j.names)-1
			wantOK := lastFile && n > 0 && whole[n-1] == '\n'
			if r.OK() != wantOK {
				t.Fatalf("%s cut to %d bytes: OK is %v: %v", name, n, r.OK(), found(r.Problems))
			}
		}
		if err := os.WriteFile(paths[i], []byte(whole), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// After a failed sync, a power loss may take what was not known to be on disk.
// That is said openly, and nothing more than that is accepted.
func TestLossAfterFailedSync(t *testing.T) {
	const tail = `{"v":1,"se`
	// Record 4 was on disk when the sync failed, 5 to 8 were not; 9 goes on.
	build := func(reason string) *journal {
		j, c := &journal{lines: map[string][]string{}}, newChain(logID)
		j.add("a", c.create())
		for range 7 {
			j.add("a", c.unwrap())
		}
		j.add("a", tail)
		j.add("b", c.repair(reason, "a", tail, 4), c.unwrap())
		return j
	}
	for _, test := range []struct {
		name     string
		reason   string
		loss     func(j *journal)
		notes    []string
		problems []string
		lost     uint64
	}{
		{name: "nothing was lost", loss: func(*journal) {},
			notes: []string{`b:1 seq 9: (reason "sync_failed"); the one before ends in 10 bytes that are no whole record, as this one says; records 5 to 8 were not known to be on disk then, and are there`}},
		{name: "the tail was lost", loss: func(j *journal) { j.lines["a"] = j.lines["a"][:8] },
			notes: []string{"a:8 seq 0: the file does not end as record 9", "b:1 seq 9: records 5 to 8 were not known"}},
		{name: "two records and the tail were lost", loss: func(j *journal) { j.lines["a"] = j.lines["a"][:6] }, lost: 2,
			notes: []string{"a:6 seq 0: the file does not end as record 9", "b:1 seq 9: records 7 to 8 are lost: a sync had failed, and this record says that those after 4", "b:1 seq 9: sync_failed"}},
		{name: "one record was torn", loss: func(j *journal) { j.lines["a"] = append(j.lines["a"][:7], j.lines["a"][7][:20]) }, lost: 1,
			notes: []string{"a:8 seq 0: the file does not end as record 9", "b:1 seq 9: record 8 is lost", "b:1 seq 9: sync_failed"}},
		{name: "space was not filled", loss: func(j *journal) { j.lines["a"] = append(j.lines["a"][:5], strings.Repeat("\x00", 600)) }, lost: 3,
			notes: []string{"a:6 seq 0: the file does not end as record 9", "b:1 seq 9: records 6 to 8 are lost", "b:1 seq 9: sync_failed"}},
		{name: "all that may be lost", loss: func(j *journal) { j.lines["a"] = j.lines["a"][:4] }, lost: 4,
			notes: []string{"a:4 seq 0: the file does not end as record 9", "b:1 seq 9: records 5 to 8 are lost", "b:1 seq 9: sync_failed"}},

		{name: "more than may be lost", loss: func(j *journal) { j.lines["a"] = j.lines["a"][:3] },
			problems: []string{"b:1 seq 9: records 4 to 8 should stand before it"},
			notes:    []string{"b:1 seq 9: sync_failed"}},
		{name: "another reason", reason: "write_failed", loss: func(j *journal) { j.lines["a"] = j.lines["a"][:6] },
			problems: []string{"b:1 seq 9: records 7 to 8 should stand before it"},
			notes:    []string{"b:1 seq 9: write_failed"}},
		{name: "another tail for another reason", reason: "write_failed", loss: func(j *journal) { j.lines["a"][8] = "garbage" },
			problems: []string{"a:9 seq 9: the file does not end in the 10 bytes that record 9"},
			notes:    []string{"b:1 seq 9: write_failed"}},
		{name: "an edit of what may be lost", loss: func(j *journal) { j.lines["a"][6] = strings.Replace(j.lines["a"][6], "tikv", "pump", 1) },
			problems: []string{"a:7 seq 7: its hash"},
			notes:    []string{"b:1 seq 9: sync_failed"}},
		{name: "a line that nobody wrote in place of what may be lost", loss: func(j *journal) {
			j.lines["a"] = append(j.lines["a"][:6], "hello\n")
		},
			problems: []string{"a:7 seq 7: it does not end as a record does", "b:1 seq 9: record 8 should stand before it"},
			notes:    []string{"b:1 seq 9: sync_failed"}},
		{name: "a copy of the record that says so", loss: func(j *journal) {
			j.lines["a"] = j.lines["a"][:6]
			j.lines["b"] = append(j.lines["b"], j.lines["b"][0])
		}, lost: 2, problems: []string{"b:3 seq 9: record 11 should stand here"},
			notes: []string{"a:6 seq 0: the file does not end as record 9", "b:1 seq 9: records 7 to 8 are lost", "b:1 seq 9: sync_failed"}},
		{name: "an edit before what may be lost", loss: func(j *journal) {
			j.lines["a"] = j.lines["a"][:6]
			j.lines["a"][1] = strings.Replace(j.lines["a"][1], "tikv", "pump", 1)
		}, lost: 2, problems: []string{"a:2 seq 2: its hash"},
			notes: []string{"a:6 seq 0: the file does not end as record 9", "b:1 seq 9: records 7 to 8 are lost", "b:1 seq 9: sync_failed"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			reason := test.reason
			if reason == "" {
				reason = "sync_failed"
			}
			j := build(reason)
			test.loss(j)
			r := check(t, j.write(t), verify.Options{})
			expectFindings(t, "problems", r.Problems, test.problems)
			expectFindings(t, "notes", r.Notes, test.notes)
			if r.Lost != test.lost {
				t.Errorf("%d records are lost, want %d", r.Lost, test.lost)
			}
		})
	}
}

// A file without a whole record is part of the log if a repair record accounts
// for all of it.
func TestFileWithoutRecord(t *testing.T) {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	j.add("a", c.create(), c.unwrap())
	j.add("b", "\x00\x00\x00")
	j.add("c", c.repair("torn_tail", "b", "\x00\x00\x00", 2), c.unwrap())
	r := check(t, j.write(t), verify.Options{})
	expectFindings(t, "problems", r.Problems, nil)
	expectFindings(t, "notes", r.Notes, []string{"b:0 seq 0: its 3 bytes are no record, as record 3", "c:1 seq 3: torn_tail"})

	j.lines["b"] = []string{"\x00\x00\x00\x00"}
	r = check(t, j.write(t), verify.Options{})
	expectFindings(t, "problems", r.Problems, []string{"b:1 seq 0: no line of the file is a record; of the first one: it holds NUL bytes",
		"a:2 seq 0: the file does not end in the 3 bytes that record 3"})
}

// Two lines that changed places are out of order, and the clock has no part in it.
func TestSwappedLines(t *testing.T) {
	c := newChain(logID)
	lines := []string{c.create(), c.unwrap(), c.unwrap(), c.unwrap(), c.unwrap()}
	lines[2], lines[3] = lines[3], lines[2]
	j := &journal{lines: map[string][]string{}}
	j.add("a", lines...)
	r := check(t, j.write(t), verify.Options{})
	expectFindings(t, "problems", r.Problems, []string{"a:3 seq 4: record 3 should stand before it, and does not"})
	expectFindings(t, "notes", r.Notes, []string{"a:4 seq 3: it stands after record 4: they are out of order"})
}

func TestNotes(t *testing.T) {
	for _, test := range []struct {
		name  string
		build func(c *chain) []string
		want  []string
	}{
		{"time goes backwards", func(c *chain) []string {
			lines := []string{c.create(), c.unwrap()}
			c.now = c.now.Add(-time.Hour)
			return append(lines, c.unwrap(), c.unwrap())
		}, []string{"a:3 seq 3: its time, 2026-01-02T02:04:05.003000006Z, is before that of the record before it, 2026-01-02T03:04:05.002000006Z: the clock was set"}},
		{"a member that is not known", func(c *chain) []string {
			return []string{c.create(), c.line(`"event":"x","outcome":"ok","witness":{"size":5,"note":["a",true,null,-3,{}]}`), c.line(`"event":"x","outcome":"ok","witness":""`)}
		}, []string{"a:2 seq 2: this program does not know its member witness"}},
		{"a member of the client that is not known", func(c *chain) []string {
			return []string{c.create(), c.line(`"event":"x","outcome":"ok","client":{"name":"a","selinux":"b"}`)}
		}, []string{"a:2 seq 2: this program does not know its member selinux"}},
		{"older files are not there", func(c *chain) []string {
			c.seq, c.prev = 99, strings.Repeat("a", 64)
			return []string{c.repair("torn_tail", "z", "", 99), c.unwrap()}
		}, []string{"a:1 seq 100: what is checked begins here: the records before 100 were not given, so the hash that it names could not be compared", "a:1 seq 100: torn_tail"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := &journal{lines: map[string][]string{}}
			j.add("a", test.build(newChain(logID))...)
			r := check(t, j.write(t), verify.Options{})
			expectFindings(t, "problems", r.Problems, nil)
			expectFindings(t, "notes", r.Notes, test.want)
		})
	}
}

// A line with the right hash is no record if it is not written as one.
func TestLinesOfNoRecord(t *testing.T) {
	prev := strings.Repeat("0", 64)
	record := func(seq, members string) string {
		return `{"v":1,"seq":` + seq + `,"time":"2026-01-02T03:04:05.000000000Z","node":"n","log":"` + logID + `",` + members + `"event":"e","outcome":"ok","prev":"` + prev + `"`
	}
	for _, test := range []struct{ name, body, want string }{
		{"another version", `{"v":2,"record":7`, "it is of format version 2, and this program knows version 1 only"},
		{"the version is not first", strings.Replace(record("1", ""), `{"v":1,`, `{"a":1,"v":1,`, 1), "not JSON as a record is written"},
		{"no version", strings.Replace(record("1", ""), `"v":1,`, "", 1), "not JSON as a record is written"},
		{"a version that is no number", strings.Replace(record("1", ""), `"v":1`, `"v":"1"`, 1), "a number that no record can"},
		{"number 0", record("0", ""), "its number is 0"},
		{"a negative number", record("-1", ""), "a number that no record can"},
		{"a leading zero", record("01", ""), "a number that no record can"},
		{"a fraction", record("1.0", ""), "not JSON as a record is written"},
		{"an exponent", record("1e0", ""), "not JSON as a record is written"},
		{"a number beyond 64 bits", record("18446744073709551616", ""), "a number that no record can"},
		{"a number as text", record(`"1"`, ""), "a number that no record can"},
		{"a member twice", record("1", `"key":"a","key":"b",`), "its member key stands twice"},
		{"an unknown member twice", record("1", `"x":"a","x":"b",`), "its member x stands twice"},
		{"seq twice", record("1", `"seq":1,`), "its member seq stands twice"},
		{"another hash", record("1", `"hash":"`+prev+`",`), "its member hash stands twice"},
		{"another case", record("1", `"Seq":1,`), "lower-case letters"},
		{"an escaped name", record("1", `"\u006bey":"a",`), "lower-case letters"},
		{"an empty name", record("1", `"":"a",`), "lower-case letters"},
		{"a member of the client twice", record("1", `"client":{"uid":1,"uid":2},`), "its member uid stands twice"},
		{"an unknown member of the client twice", record("1", `"client":{"x":1,"x":2},`), "its member x stands twice"},
		{"a member of an unknown object twice", record("1", `"x":{"y":1,"y":2},`), "its member y stands twice"},
		{"a name in the context twice", record("1", `"context":{"a":"1","b":"2","a":"3"},`), "two pairs of its context have the same name"},
		{"a number in the context", record("1", `"context":{"a":1},`), "a string that is not JSON"},
		{"a text for the context", record("1", `"context":"a",`), "not JSON as a record is written"},
		{"a number for the key", record("1", `"key":1,`), "a string that is not JSON"},
		{"null for the key", record("1", `"key":null,`), "a string that is not JSON"},
		{"a user id beyond 32 bits", record("1", `"client":{"uid":4294967296},`), "a number that no record can"},
		{"a process id beyond 31 bits", record("1", `"client":{"pid":2147483648},`), "a number that no record can"},
		{"space", record("1", ` "key":"a",`), "not JSON as a record is written"},
		{"space after a colon", record("1", `"key": "a",`), "a string that is not JSON"},
		{"an escape for what needs none", record("1", `"key":"\u0041",`), "a string that is not JSON"},
		{"a long escape for what has a short one", record("1", `"key":"\u000a",`), "a string that is not JSON"},
		{"an upper-case escape", record("1", `"key":"\u001F",`), "a string that is not JSON"},
		{"a lone surrogate", record("1", `"key":"\ud800",`), "a string that is not JSON"},
		{"a control character", record("1", "\"key\":\"a\tb\","), "a string that is not JSON"},
		{"no UTF-8", record("1", "\"key\":\"a\xffb\","), "not valid UTF-8"},
		{"a hash of 63 digits", strings.Replace(record("1", ""), `"prev":"0`, `"prev":"`, 1), "not of 64 hex digits"},
		{"a hash in capitals", strings.Replace(record("1", ""), `"prev":"0`, `"prev":"A`, 1), "not of 64 lower-case hex digits"},
		{"a time with an offset", strings.Replace(record("1", ""), `.000000000Z`, `.0000000+00:00`, 1), "its time is not in RFC 3339"},
		{"a time with a comma", strings.Replace(record("1", ""), `.000000000Z`, `,000000000Z`, 1), "its time is not in RFC 3339"},
		{"a time with a sign", strings.Replace(record("1", ""), `.000000000Z`, `.+00000000Z`, 1), "its time is not in RFC 3339"},
		{"a day that there is not", strings.Replace(record("1", ""), `-01-02`, `-02-30`, 1), "its time is not in RFC 3339"},
		{"a tail of no hash", record("1", `"former":{"tail_bytes":1,"tail_sha256":"0"},`), "not of 64 hex digits"},
		{"an empty log id", strings.Replace(record("1", ""), logID, "", 1), "its member log is empty"},
		{"no prev", strings.Replace(record("1", ""), `,"prev":"`+prev+`"`, "", 1), "it lacks one of the members"},
		{"an array", `[1`, "not JSON as a record is written"},
		{"too deep", record("1", `"x":`+strings.Repeat("[", 9)+strings.Repeat("]", 9)+`,`), "not JSON as a record is written"},
		{"as deep as it may be", record("1", `"x":`+strings.Repeat("[", 7)+strings.Repeat("]", 7)+`,`), ""},
		{"text after the object", record("1", "") + `}{`, "not JSON as a record is written"},
		{"a string that swallows the hash", record("1", "") + `,"x":"`, "a string that is not JSON"},
		{"too long", record("1", `"detail":"`+strings.Repeat("x", 8192)+`",`), "it is longer than 8192 bytes"},
		{"nothing", ``, "not JSON as a record is written"},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := &journal{lines: map[string][]string{}}
			j.add("a", finish(test.body))
			r := check(t, j.write(t), verify.Options{})
			if test.want == "" {
				expectFindings(t, "problems", r.Problems, nil)
				return
			}
			if r.OK() || r.Records != 0 || !strings.Contains(r.Problems[0].What, test.want) {
				t.Errorf("%v, want %q", found(r.Problems), test.want)
			}
		})
	}
}

// Times are read one by one, however alike they are.
func TestTimesOfOneMinute(t *testing.T) {
	for _, test := range []struct {
		second string
		ok     bool
	}{{"59.000000000Z", true}, {"60.000000000Z", false}, {"99.000000000Z", false}, {"59,000000000Z", false}} {
		c := newChain(logID)
		first := c.create()
		second := c.unwrap()
		second = finish(strings.Replace(second[:len(second)-76], "05.002000006Z", test.second, 1))
		j := &journal{lines: map[string][]string{}}
		j.add("a", first, second)
		if r := check(t, j.write(t), verify.Options{}); r.OK() != test.ok {
			t.Errorf("%s: %v", test.second, found(r.Problems))
		}
	}
}

// The longest line there can be is one, and a byte more is none.
func TestLongestLine(t *testing.T) {
	for _, more := range []int{0, 1} {
		c := newChain(logID)
		j := &journal{lines: map[string][]string{}}
		j.add("a", c.create())
		probe := *c
		room := 8192 - len(probe.line(`"event":"x","outcome":"ok","detail":""`))
		j.add("a", c.line(`"event":"x","outcome":"ok","detail":"`+strings.Repeat("x", room+more)+`"`))
		r := check(t, j.write(t), verify.Options{})
		if r.OK() != (more == 0) {
			t.Errorf("a line of %d bytes: %v", len(j.lines["a"][1]), found(r.Problems))
		}
	}
}

// One that damages every line gets to see so many findings and no more.
func TestFindingsAreBounded(t *testing.T) {
	j := sample()
	c := newChain(logID)
	lines := []string{c.create()}
	for range 1000 {
		c.unwrap()
		lines = append(lines, c.unwrap()) // every other one
		c.now = c.now.Add(-time.Second)
	}
	j.names, j.lines["a"] = []string{"a"}, lines
	r := check(t, j.write(t), verify.Options{})
	if r.ProblemCount != 1000 || len(r.Problems) != verify.MaxFindings || r.OK() {
		t.Errorf("%d of %d problems", len(r.Problems), r.ProblemCount)
	}
}

func TestSameFileTwice(t *testing.T) {
	paths := sample().write(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(paths[1], link); err != nil {
		t.Fatal(err)
	}
	r := check(t, append(paths, paths[0], link), verify.Options{})
	expectFindings(t, "problems", r.Problems, nil)
	if r.Files != 5 || r.NoteCount != 4 {
		t.Errorf("%d files, notes %v", r.Files, found(r.Notes))
	}
}

// What cannot be checked is an error, never a result.
func TestErrors(t *testing.T) {
	paths := sample().write(t)
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		name  string
		ctx   context.Context
		paths []string
		o     verify.Options
		is    error
		text  string
	}{
		{"no files", context.Background(), nil, verify.Options{}, nil, "no file"},
		{"a missing file", context.Background(), append(slices.Clone(paths), missing), verify.Options{}, os.ErrNotExist, missing},
		{"a directory", context.Background(), []string{filepath.Dir(paths[0])}, verify.Options{}, nil, "not a regular file"},
		{"a cancelled context", cancelled, paths, verify.Options{}, context.Canceled, paths[0]},
		{"a head without a number", context.Background(), paths, verify.Options{ExpectHead: &verify.Head{}}, nil, "no record number"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := verify.Files(test.ctx, test.paths, test.o)
			if r != nil || err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
}

// A broker that is just writing a line is given the time to end it.
func TestLineBeingWritten(t *testing.T) {
	for _, test := range []struct {
		name  string
		after time.Duration
		ok    bool
	}{
		{"it ends", 50 * time.Millisecond, true},
		{"it does not", time.Hour, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := sample()
				last := j.lines["e"][9]
				j.lines["e"][9] = last[:120]
				paths := j.write(t)
				go func() {
					time.Sleep(test.after)
					f, err := os.OpenFile(paths[4], os.O_WRONLY|os.O_APPEND, 0)
					if err != nil {
						t.Error(err)
						return
					}
					defer func() { _ = f.Close() }()
					// And more records than were there when the check began.
					if _, err := f.WriteString(last[120:] + last + last[:50]); err != nil {
						t.Error(err)
					}
				}()
				r := check(t, paths, verify.Options{})
				if r.OK() != test.ok {
					t.Errorf("%v", found(r.Problems))
				}
				if test.ok && r.Head != headOf(t, 50, last) {
					t.Errorf("head is %d", r.Head.Seq)
				}
				time.Sleep(2 * time.Hour)
			})
		})
	}
}

func TestFindingString(t *testing.T) {
	for _, test := range []struct {
		f    verify.Finding
		want string
	}{
		{verify.Finding{File: "a/b", Line: 3, Seq: 7, What: "it is blank"}, "a/b:3: record 7: it is blank"},
		{verify.Finding{File: "a/b", What: "it is empty"}, "a/b: it is empty"},
	} {
		if got := test.f.String(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
