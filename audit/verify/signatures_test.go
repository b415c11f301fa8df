package verify_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/audit/verify"
)

func TestSignedLog(t *testing.T) {
	paths := signedSample().write(t)
	for _, test := range []struct {
		name     string
		key      *signer
		paths    []string
		problems []string
		want     verify.Signed
		first    int // the number of the first key
	}{
		{name: "without a key", paths: paths, want: verify.Signed{Seq: 29, Checkpoints: 8, Keys: 3, Unsigned: 1}, first: 1},
		{name: "with the first key", key: newSigner(1), paths: paths, want: verify.Signed{Seq: 29, Checkpoints: 8, Keys: 3, Unsigned: 1}, first: 1},
		{name: "with the second key", key: newSigner(2), paths: paths, want: verify.Signed{Seq: 29, Checkpoints: 5, Keys: 2, Unsigned: 1}, first: 2},
		{name: "with the last key", key: newSigner(3), paths: paths, want: verify.Signed{Seq: 29, Checkpoints: 2, Keys: 1, Unsigned: 1}, first: 3},
		{name: "with a key of nobody", key: newSigner(9), paths: paths, problems: []string{"c:0 seq 0: no checkpoint in the files is signed by the key " + newSigner(9).key(t).ID() + " that was given"}},
		{name: "without the first file", paths: paths[1:], want: verify.Signed{Seq: 29, Checkpoints: 6, Keys: 3, Unsigned: 1}, first: 1},
		{name: "without two files, with the first key", key: newSigner(1), paths: paths[2:],
			problems: []string{"c:0 seq 0: that was given: give the older files too, or a key that signs what is here"}},
		{name: "without the last file", key: newSigner(1), paths: paths[:2], want: verify.Signed{Seq: 19, Checkpoints: 5, Keys: 2, Unsigned: 1}, first: 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			var o verify.Options
			if test.key != nil {
				o.Key = test.key.key(t)
			}
			r := check(t, test.paths, o)
			expectFindings(t, "problems", r.Problems, test.problems)
			if r.FirstSeq == 1 {
				expectFindings(t, "notes", r.Notes, nil)
			}
			got := r.Signed
			if test.first > 0 {
				last := newSigner(byte(len(test.paths))).vkey
				if test.paths[len(test.paths)-1] == paths[2] {
					last = newSigner(3).vkey
				}
				if got.First.String() != newSigner(byte(test.first)).vkey || got.Last.String() != last || got.Current.String() != last || got.Time.UnixNano() != 1767323045000000006 {
					t.Errorf("signed %+v", got)
				}
			}
			test.want.Time, test.want.First, test.want.Last, test.want.Current = got.Time, got.First, got.Last, got.Current
			if got != test.want {
				t.Errorf("signed %+v, want %+v", got, test.want)
			}
		})
	}
}

// A log of a broker that signs nothing is whole, unless its key is known.
func TestUnsignedLog(t *testing.T) {
	paths := sample().write(t)
	if r := check(t, paths, verify.Options{}); r.Signed != (verify.Signed{}) {
		t.Errorf("signed %+v", r.Signed)
	}
	r := check(t, paths, verify.Options{Key: newSigner(1).key(t)})
	expectFindings(t, "problems", r.Problems, []string{"e:0 seq 0: no checkpoint in the files is signed by the key"})
}

// The last key that was announced is the current one, also before it has signed.
func TestKeyBeforeItSigns(t *testing.T) {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	one, two := newSigner(1), newSigner(2)
	j.add("a", c.createSigned(one), c.unwrap())
	j.add("b", c.rotate(one, two), c.unwrap())
	r := check(t, j.write(t), verify.Options{Key: one.key(t)})
	if s := r.Signed; !r.OK() || s.Seq != 2 || s.Unsigned != 2 || s.Last.String() != one.vkey || s.Current.String() != two.vkey {
		t.Errorf("%v, signed %+v", found(r.Problems), r.Signed)
	}
}

func TestSignatures(t *testing.T) {
	one, two, three := newSigner(1), newSigner(2), newSigner(3)
	id := func(s *signer) string { return s.key(t).ID() }
	// Of each log, the first file has the records 1 and 2 and is signed by one.
	for _, test := range []struct {
		name  string
		build func(j *journal, c *chain)
		want  []string
		seq   uint64 // that is signed all the same
	}{
		{name: "of another record", build: func(j *journal, c *chain) {
			before := c.head()
			j.add("a", c.unwrap(), c.checkpointOf(one.vkey, before.signed(one)))
		}, want: []string{"a:5 seq 5: its checkpoint is of record 3 with the hash"}, seq: 2},
		{name: "of another number", build: func(j *journal, c *chain) {
			at := c.head()
			at.seq--
			j.add("a", c.checkpointOf(one.vkey, at.signed(one)))
		}, want: []string{"a:4 seq 4: its checkpoint is of record 2 with the hash"}, seq: 2},
		{name: "a copy of one by a former key", build: func(j *journal, c *chain) {
			j.add("b", c.rotate(one, two), c.checkpoint(two), j.lines["a"][2], c.unwrap(), c.checkpoint(two))
		}, want: []string{"b:3 seq 3: record 6 should stand here"}, seq: 6},
		{name: "of another hash", build: func(j *journal, c *chain) {
			at := c.head()
			at.hash = strings.Repeat("ab", 32)
			j.add("a", c.checkpointOf(one.vkey, at.signed(one)))
		}, want: []string{"a:4 seq 4: its checkpoint is of record 3 with the hash abab"}, seq: 2},
		{name: "of another log", build: func(j *journal, c *chain) {
			at := c.head()
			at.log = otherID
			j.add("a", c.checkpointOf(one.vkey, at.signed(one)))
		}, want: []string{"a:4 seq 4: its checkpoint is of another log, " + otherID}, seq: 2},
		{name: "changed after it was signed", build: func(j *journal, c *chain) {
			j.add("a", c.checkpointOf(one.vkey, strings.Replace(c.head().signed(one), "node n1", "node n2", 1)))
		}, want: []string{"a:4 seq 4: its checkpoint is not signed by the key " + id(one) + " that it names"}, seq: 2},
		{name: "signed by another key than it names", build: func(j *journal, c *chain) {
			j.add("a", c.checkpointOf(one.vkey, c.head().signed(two)))
		}, want: []string{"a:4 seq 4: its checkpoint is not signed by the key " + id(one)}, seq: 2},
		{name: "signed by nobody", build: func(j *journal, c *chain) {
			j.add("a", c.checkpointOf(one.vkey, c.head().text()))
		}, want: []string{"a:4 seq 4: of its checkpoint: it is no signed note"}, seq: 2},
		{name: "signed by others too", build: func(j *journal, c *chain) {
			j.add("a", c.checkpointOf(one.vkey, c.head().signed(newSignerNamed("witness.example", 7), one, two)))
		}, seq: 3},
		{name: "with a line of a later version", build: func(j *journal, c *chain) {
			at := c.head()
			at.more = "boot 7\n"
			j.add("a", c.checkpointOf(one.vkey, at.signed(one)))
		}, seq: 3},
		{name: "by a key that nobody announced", build: func(j *journal, c *chain) {
			j.add("a", c.checkpoint(two), c.unwrap(), c.checkpoint(two), c.checkpoint(two))
		}, want: []string{"a:4 seq 4: the key " + id(two) + " signs, and should be " + id(one)}, seq: 2},
		{name: "by a key that nobody announced, and back", build: func(j *journal, c *chain) {
			j.add("a", c.checkpoint(two), c.checkpoint(one))
		}, want: []string{"a:4 seq 4: the key " + id(two), "a:5 seq 5: the key " + id(one)}, seq: 2},
		{name: "by a key that nobody announced, as an alarm says", build: func(j *journal, c *chain) {
			j.add("a", c.line(`"event":"alarm","outcome":"error","reason":"signing_key_replaced"`), c.checkpoint(two))
		}, want: []string{"a:5 seq 5: the key " + id(two)}, seq: 2},
		{name: "in a rotation, by a key that nobody announced", build: func(j *journal, c *chain) {
			j.add("b", c.rotate(two, three), c.checkpoint(three))
		}, want: []string{"b:1 seq 4: the key " + id(two)}, seq: 2},
		{name: "by the old key after a rotation", build: func(j *journal, c *chain) {
			j.add("b", c.rotate(one, two), c.checkpoint(one))
		}, want: []string{"b:2 seq 5: the key " + id(one) + " signs, and should be " + id(two)}, seq: 3},
		{name: "a rotation that keeps the key", build: func(j *journal, c *chain) {
			j.add("b", c.rotateOf(one.vkey, c.head().signed(one)), c.checkpoint(one))
		}, seq: 4},
		{name: "a rotation without a checkpoint", build: func(j *journal, c *chain) {
			j.add("b", c.line(`"event":"rotate","outcome":"ok","log":"`+logID+`"`), c.checkpoint(one))
		}, want: []string{"b:1 seq 4: the log is signed, and this record, which begins a file, has no checkpoint"}, seq: 4},
		{name: "a rotation that is forged", build: func(j *journal, c *chain) {
			at := c.head()
			at.more = "next " + two.vkey + "\n"
			j.add("b", c.rotateOf(one.vkey, at.signed(three)), c.checkpoint(two), c.checkpoint(two))
		}, want: []string{"b:1 seq 4: its checkpoint is not signed by the key " + id(one)}, seq: 2},
		{name: "a next key in a checkpoint record", build: func(j *journal, c *chain) {
			at := c.head()
			at.more = "next " + two.vkey + "\n"
			j.add("a", c.checkpointOf(one.vkey, at.signed(one)))
		}, want: []string{"a:4 seq 4: its checkpoint names a next key, and only that of a rotate record may"}, seq: 2},
		{name: "two next keys", build: func(j *journal, c *chain) {
			at := c.head()
			at.more = "next " + two.vkey + "\nnext " + three.vkey + "\n"
			j.add("b", c.rotateOf(one.vkey, at.signed(one)))
		}, want: []string{"b:1 seq 4: of its checkpoint: it names two next keys"}, seq: 2},
		{name: "a next key that is none", build: func(j *journal, c *chain) {
			at := c.head()
			at.more = "next two\n"
			j.add("b", c.rotateOf(one.vkey, at.signed(one)))
		}, want: []string{"b:1 seq 4: of its checkpoint: of the next key that it names: it is no key"}, seq: 2},
		{name: "a checkpoint record without one", build: func(j *journal, c *chain) {
			j.add("a", c.line(`"event":"checkpoint","outcome":"ok"`))
		}, want: []string{"a:4 seq 4: it is a checkpoint record without a checkpoint"}, seq: 2},
		{name: "nobody's", build: func(j *journal, c *chain) {
			j.add("a", strings.Replace(c.checkpoint(one), `,"public_key":"`+one.vkey+`"`, "", 1))
			j.lines["a"][3] = finish(j.lines["a"][3][:len(j.lines["a"][3])-76])
		}, want: []string{"a:4 seq 4: it has a checkpoint and does not say whose"}, seq: 2},
		{name: "a key that is none", build: func(j *journal, c *chain) {
			j.add("a", c.checkpointOf("keybroker.audit+00000000+AAAA", c.head().signed(one)))
		}, want: []string{"a:4 seq 4: of its public key: it is no key as keybroker writes it"}, seq: 2},
		{name: "in a record of another event", build: func(j *journal, c *chain) {
			j.add("a", c.line(`"event":"later","outcome":"ok",`+noteMembers(two.vkey, c.head().signed(two))))
		}, want: []string{"a:4 seq 4: the key " + id(two)}, seq: 2},
		{name: "a repair changes no key", build: func(j *journal, c *chain) {
			j.add("b", c.repair("live_file_missing", "a", "", 3), c.checkpoint(one))
		}, seq: 4},
		{name: "the rotation was removed", build: func(j *journal, c *chain) {
			c.rotate(one, two)
			j.add("b", c.unwrap(), c.checkpoint(two))
		}, want: []string{"b:1 seq 5: record 4 should stand before it", "b:2 seq 6: the key " + id(two)}, seq: 2},
		{name: "a line before the rotation was removed", build: func(j *journal, c *chain) {
			c.unwrap()
			j.add("b", c.rotate(one, two), c.checkpoint(two))
		}, want: []string{"b:1 seq 5: record 4 should stand before it"}, seq: 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			j, c := &journal{lines: map[string][]string{}}, newChain(logID)
			j.add("a", c.createSigned(one), c.unwrap(), c.checkpoint(one))
			test.build(j, c)
			paths := j.write(t)
			for _, o := range []verify.Options{{}, {Key: one.key(t)}} {
				r := check(t, paths, o)
				expectFindings(t, "problems", r.Problems, test.want)
				if r.Signed.Seq != test.seq {
					t.Errorf("signed up to %d, want %d", r.Signed.Seq, test.seq)
				}
			}
		})
	}
}

// A key that is given vouches for what comes after it signed first, and by the
// chain for the records before, whoever signed those.
func TestKeyThatWasNotAnnounced(t *testing.T) {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	one, two := newSigner(1), newSigner(2)
	j.add("a", c.createSigned(one), c.checkpoint(one), c.unwrap(), c.checkpoint(two), c.unwrap())
	r := check(t, j.write(t), verify.Options{Key: two.key(t)})
	expectFindings(t, "problems", r.Problems, nil)
	expectFindings(t, "notes", r.Notes, []string{"a:4 seq 4: the key " + two.key(t).ID() + " signs, and the one before it, " + one.key(t).ID() + ", did not announce it"})
	if r.Signed.Seq != 3 || r.Signed.First.String() != two.vkey {
		t.Errorf("signed %+v", r.Signed)
	}
}

// The first record says who signs first.
func TestFirstKey(t *testing.T) {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	one, two := newSigner(1), newSigner(2)
	j.add("a", c.createSigned(two), c.checkpoint(one))
	r := check(t, j.write(t), verify.Options{})
	expectFindings(t, "problems", r.Problems, []string{"a:2 seq 2: the key " + one.key(t).ID() + " signs, and should be " + two.key(t).ID()})

	j, c = &journal{lines: map[string][]string{}}, newChain(logID)
	j.add("a", c.line(`"event":"create","outcome":"ok","log":"`+logID+`","public_key":"keybroker.audit+x"`), c.checkpoint(one))
	r = check(t, j.write(t), verify.Options{})
	expectFindings(t, "problems", r.Problems, []string{"a:1 seq 1: of its public key: it is no key as keybroker writes it"})
}

func TestAlarmIsNoted(t *testing.T) {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	j.add("a", c.create(), c.line(`"event":"alarm","outcome":"error","reason":"log_shortened","detail":"x"`))
	r := check(t, j.write(t), verify.Options{})
	expectFindings(t, "problems", r.Problems, nil)
	expectFindings(t, "notes", r.Notes, []string{`a:2 seq 2: the broker raised an alarm, "log_shortened"; read its detail`})
}

// A checkpoint that was kept elsewhere holds the log to what it was.
func TestCheckpointFromElsewhere(t *testing.T) {
	line := func(j *journal, seq uint64) string { return j.lines[j.names[(seq-1)/10]][(seq-1)%10] }
	at := func(seq uint64, by byte) func(*testing.T, *journal) *verify.Checkpoint {
		return func(t *testing.T, j *journal) *verify.Checkpoint {
			return external(t, seq, line(j, seq), newSigner(by))
		}
	}
	notSigned := "the key that signed the log at that record has not signed it"
	for _, test := range []struct {
		name   string
		of     func(t *testing.T, j *journal) *verify.Checkpoint
		tamper func(j *journal)
		key    byte
		want   []string
	}{
		{name: "of the first record", of: at(1, 1)},
		{name: "of the last record", of: at(30, 3), key: 1},
		{name: "of a record before the given key signed", of: at(3, 1), key: 1},
		{name: "of the last record of a file", of: at(10, 1), key: 1},
		{name: "of the first record of a file", of: at(11, 2), key: 1},
		{name: "by a key before its time", of: at(10, 2), key: 1, want: []string{"cp.txt:0 seq 10: " + notSigned}},
		{name: "by a key after its time", of: at(11, 1), key: 1, want: []string{"cp.txt:0 seq 11: " + notSigned}},
		{name: "by a key of nobody", of: at(15, 9), want: []string{"cp.txt:0 seq 15: " + notSigned}},
		{name: "from before the given key", of: at(10, 1), key: 2,
			want: []string{"cp.txt:0 seq 10: the key that signed the log at that record, " + newSigner(1).key(t).ID() + ", is not one that the key that was given has announced"}},
		{name: "before the given key has signed", of: at(12, 2), key: 2},
		{name: "of another hash", of: func(t *testing.T, j *journal) *verify.Checkpoint {
			return external(t, 12, line(j, 13), newSigner(2))
		}, want: []string{"b:2 seq 12: is known from the checkpoint cp.txt: it, or a record before it, is not the one that was written"}},
		{name: "of a record that was removed", of: at(30, 3), tamper: func(j *journal) { j.lines["c"] = j.lines["c"][:8] },
			want: []string{"c:0 seq 30: the log ends with record 28, and record 30 is known from the checkpoint cp.txt"}},
		{name: "of an older record", of: at(10, 1), tamper: func(j *journal) { j.names = []string{"c"} },
			want: []string{"c:0 seq 10: the files begin with record 21, so record 10, which is known from the checkpoint cp.txt, cannot be compared"}},
		{name: "of the record before the first file", of: at(10, 1), tamper: func(j *journal) { j.names = []string{"b", "c"} }},
		{name: "of the record before the first file, by another key", of: at(10, 2), tamper: func(j *journal) { j.names = []string{"b", "c"} },
			want: []string{"cp.txt:0 seq 10: " + notSigned}},
		{name: "of another one before the first file", of: func(t *testing.T, j *journal) *verify.Checkpoint {
			return external(t, 10, line(j, 9), newSigner(1))
		}, tamper: func(j *journal) { j.names = []string{"b", "c"} },
			want: []string{"b:1 seq 11: as the hash of record 10, and "}},
		{name: "of a record that was damaged", of: at(12, 2), tamper: func(j *journal) {
			j.lines["b"][1] = strings.Replace(j.lines["b"][1], "tikv", "pump", 1)
		}, want: []string{"b:2 seq 12: its hash does not fit", "c:0 seq 12: record 12, which is known from the checkpoint cp.txt, is not in the files"}},
		{name: "of another log", of: func(t *testing.T, j *journal) *verify.Checkpoint {
			return parsed(t, statement{log: otherID, seq: 12, hash: hashOf(line(j, 12))}.signed(newSigner(2)))
		}, want: []string{"cp.txt:0 seq 12: the checkpoint is of another log: its id is " + otherID}},
		{name: "of a log that nobody signed", of: func(t *testing.T, j *journal) *verify.Checkpoint {
			return external(t, 2, j.lines["u"][1], newSigner(1))
		}, tamper: func(j *journal) { j.names = []string{"u"} }, want: []string{"cp.txt:0 seq 2: nothing in the files says which key should have signed it"}},
		{name: "of a log that a stranger goes on signing", of: func(t *testing.T, j *journal) *verify.Checkpoint {
			return external(t, 12, j.lines["s"][11], newSigner(9))
		}, tamper: func(j *journal) { j.names = []string{"s"} }, want: []string{"s:11 seq 11: the key " + newSigner(9).key(t).ID(),
			"cp.txt:0 seq 12: the key that signed the log at that record, " + newSigner(9).key(t).ID() + ", is not one that a key before it has announced"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := signedSample()
			unsigned := newChain(logID)
			j.lines["u"] = []string{unsigned.create(), unsigned.unwrap(), unsigned.unwrap()}
			stranger := newChain(logID)
			stranger.seq, stranger.prev = 10, hashOf(j.lines["a"][9])
			j.lines["s"] = append(slices.Clone(j.lines["a"]), stranger.checkpoint(newSigner(9)), stranger.unwrap())
			o := verify.Options{Checkpoints: []*verify.Checkpoint{test.of(t, j)}}
			if test.key != 0 {
				o.Key = newSigner(test.key).key(t)
			}
			if test.tamper != nil {
				test.tamper(j)
			}
			r := check(t, j.write(t), o)
			expectFindings(t, "problems", r.Problems, test.want)
		})
	}
}

func TestSeveralCheckpoints(t *testing.T) {
	j := signedSample()
	o := verify.Options{Checkpoints: []*verify.Checkpoint{
		external(t, 25, j.lines["c"][4], newSigner(3)),
		external(t, 5, j.lines["a"][4], newSigner(1)),
		external(t, 5, j.lines["a"][4], newSigner(2)),
		external(t, 5, j.lines["a"][4], newSigner(1)),
	}}
	head := headOf(t, 5, j.lines["a"][4])
	o.ExpectHead = &head
	r := check(t, j.write(t), o)
	expectFindings(t, "problems", r.Problems, []string{"cp.txt:0 seq 5: the key that signed the log"})
}

func TestParseCheckpoint(t *testing.T) {
	good := statement{log: logID, seq: 7, hash: strings.Repeat("00", 32)}.text()
	by := newSigner(1)
	replace := func(old, by string) string { return strings.Replace(good, old, by, 1) }
	for _, test := range []struct{ name, text, want string }{
		{"as it should be", good, ""},
		{"a next key", good + "next " + by.vkey + "\n", ""},
		{"another origin", replace("keybroker.audit/", "sum.golang.org/"), "its first line"},
		{"a short id", replace(logID, logID[1:]), "its first line"},
		{"an id in capitals", replace(logID, strings.ToUpper(logID)), "its first line"},
		{"record 0", replace("\n7\n", "\n0\n"), "its second line"},
		{"a leading zero", replace("\n7\n", "\n07\n"), "its second line"},
		{"a sign", replace("\n7\n", "\n+7\n"), "its second line"},
		{"too large a number", replace("\n7\n", "\n18446744073709551616\n"), "its second line"},
		{"a short hash", replace("AAAA", ""), "its third line"},
		{"a hash with bits too many", replace("A=\n", "B=\n"), "its third line"},
		{"another time", replace("time 2026", "time 26"), "its fourth line"},
		{"no such day", replace("-01-02", "-02-30"), "its fourth line"},
		{"no time", replace("time ", "at "), "its fourth line"},
		{"no node", replace("node ", "host "), "its fifth line"},
		{"too short", replace("node n1\n", ""), "it lacks lines"},
		{"a next key of another", good + "next " + newSignerNamed("sum.golang.org", 1).vkey + "\n", "of the next key that it names: it is a key of \"sum.golang.org\""},
		{"too long", good + strings.Repeat("x\n", verify.MaxCheckpoint/2), "it is longer than"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := verify.ParseCheckpoint("x", []byte(signText(test.text, by)))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	for _, text := range []string{"", "\n\n", good, good + "\n", good + "\n— x\n", signText(good, by) + "x"} {
		if _, err := verify.ParseCheckpoint("x", []byte(text)); err == nil || !strings.Contains(err.Error(), "no signed note") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// A key has one form.
func TestParseKey(t *testing.T) {
	pluses := 0
	for n := range byte(64) {
		k := newSigner(n)
		if got := k.key(t); got.String() != k.vkey || !strings.HasPrefix(k.vkey, "keybroker.audit+"+got.ID()+"+") {
			t.Errorf("%s is read as %s, %s", k.vkey, got, got.ID())
		}
		pluses = max(pluses, strings.Count(k.vkey, "+"))
	}
	if pluses < 3 {
		t.Error("no key has a plus in its base64")
	}
	k := newSigner(1)
	parts := strings.Split(k.vkey, "+")
	last := parts[2][len(parts[2])-1]
	for _, vkey := range []string{
		"", "keybroker.audit", k.vkey + " ", k.vkey + "\n", k.vkey[:20] + "\n" + k.vkey[20:],
		newSignerNamed("keybroker", 1).vkey,
		strings.Join([]string{parts[0], strings.ToUpper(parts[1]), parts[2]}, "+"),
		strings.Join([]string{parts[0], "00000000", parts[2]}, "+"),
		k.vkey[:len(k.vkey)-1] + string(slices.Max([]byte{last + 1, 'A'})),
	} {
		if got, err := verify.ParseKey(vkey); err == nil && vkey != k.vkey {
			t.Errorf("%q is read as %s", vkey, got)
		}
	}
}
