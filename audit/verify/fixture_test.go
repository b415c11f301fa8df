package verify_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keybroker/keybroker/audit/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// chain makes lines by docs/audit.md alone, so that these tests need no writer.
type chain struct {
	id   string
	seq  uint64
	prev string
	now  time.Time
}

func newChain(id string) *chain {
	return &chain{id: id, prev: strings.Repeat("0", 64), now: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)}
}

// line makes the next line; members stand between the node and prev.
func (c *chain) line(members string) string {
	c.seq++
	c.now = c.now.Add(time.Millisecond)
	body := fmt.Sprintf(`{"v":1,"seq":%d,"time":"%s","node":"n1",%s,"prev":"%s"`,
		c.seq, c.now.Format("2006-01-02T15:04:05.000000000Z"), members, c.prev)
	line := finish(body)
	c.prev = hashOf(line)
	return line
}

func finish(body string) string {
	sum := sha256.Sum256([]byte(body))
	return body + `,"hash":"` + hex.EncodeToString(sum[:]) + "\"}\n"
}

func hashOf(line string) string { return line[len(line)-67 : len(line)-3] }

func (c *chain) unwrap() string {
	return c.line(`"event":"unwrap","outcome":"ok","code":"OK","client":{"name":"tikv","method":"UnwrapKey","uid":998,"gid":997,"pid":42},` +
		`"key":"tikv","context":{"cluster":"prod-1","text":"\",\"hash\":\""},"source":"cache","latency_us":87`)
}

func (c *chain) create() string {
	return c.line(`"event":"create","outcome":"ok","log":"` + c.id + `"`)
}

// repair follows a file that ends in tail and whose records up to synced were
// known to be on disk.
func (c *chain) repair(reason, former, tail string, synced uint64) string {
	account := fmt.Sprintf(`"file":%q,`, former)
	if tail != "" {
		account += fmt.Sprintf(`"tail_bytes":%d,"tail_sha256":"%x",`, len(tail), sha256.Sum256([]byte(tail)))
	}
	return c.line(fmt.Sprintf(`"event":"repair","outcome":"ok","reason":%q,"log":%q,"former":{%s"synced_seq":%d}`, reason, c.id, account, synced))
}

// journal is the files of a log, each by its lines; the last one may be torn.
type journal struct {
	names []string
	lines map[string][]string
}

func (j *journal) add(name string, lines ...string) {
	if !slices.Contains(j.names, name) {
		j.names = append(j.names, name)
	}
	j.lines[name] = append(j.lines[name], lines...)
}

const (
	logID   = "00112233445566778899aabbccddeeff"
	otherID = "ffeeddccbbaa99887766554433221100"

	// What the sample's files a and d end in after their last record.
	tornTail = `{"v":1,"seq":11,"time":"2026-01-`
	nulTail  = "{\"v\":1,\"seq\":41,\"ti\x00\x00\x00\x00\n{\"v\":1,\"seq\":42,\"time\":\"2\n\x00\x00\x00\x00"
)

// sample is five files of ten records:
//
//	a  1-10   and a torn tail
//	b  11-20  accounts for it
//	c  21-30  followed b as a rotation does, which this version does not know
//	d  31-40  and a tail of NUL bytes, lines and all
//	e  41-50  accounts for it
func sample() *journal {
	j, c := &journal{lines: map[string][]string{}}, newChain(logID)
	j.add("a", c.create())
	fill := func(name string) {
		for range 9 {
			j.add(name, c.unwrap())
		}
	}
	fill("a")
	j.add("a", tornTail)
	j.add("b", c.repair("torn_tail", "a", tornTail, 10))
	fill("b")
	j.add("c", c.line(`"event":"rotate","outcome":"ok","log":"`+logID+`"`))
	fill("c")
	j.add("d", c.line(`"event":"rotate","outcome":"ok","log":"`+logID+`"`))
	fill("d")
	j.add("d", nulTail)
	j.add("e", c.repair("torn_tail", "d", nulTail, 40))
	fill("e")
	return j
}

// write writes the files into a new directory and returns their paths.
func (j *journal) write(t testing.TB) []string {
	t.Helper()
	dir := t.TempDir()
	var paths []string
	for _, name := range j.names {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(strings.Join(j.lines[name], "")), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func check(t testing.TB, paths []string, o verify.Options) *verify.Result {
	t.Helper()
	r, err := verify.Files(context.Background(), paths, o)
	if err != nil {
		t.Fatal(err)
	}
	if r.OK() != (len(r.Problems) == 0) {
		t.Errorf("OK is %v with %d problems", r.OK(), len(r.Problems))
	}
	return r
}

// found is "FILE:LINE seq N: what" of each finding, with the file's name only.
func found(findings []verify.Finding) []string {
	var texts []string
	for _, f := range findings {
		texts = append(texts, fmt.Sprintf("%s:%d seq %d: %s", filepath.Base(f.File), f.Line, f.Seq, f.What))
	}
	return texts
}

// expectFindings compares findings with "FILE:LINE seq N: " and a part of what.
func expectFindings(t *testing.T, what string, findings []verify.Finding, want []string) {
	t.Helper()
	got := found(findings)
	fit := len(got) == len(want)
	for i := 0; fit && i < len(want); i++ {
		place, text, _ := strings.Cut(want[i], ": ")
		fit = strings.HasPrefix(got[i], place+": ") && strings.Contains(got[i], text)
	}
	if !fit {
		t.Errorf("%s:\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}
