package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/audit"
)

// goldenRecords are the records of testdata/golden.jsonl, from the second line
// on: the first is the log's own.
func goldenRecords() []audit.Record {
	uid, gid := uint32(0), uint32(997)
	return []audit.Record{
		{Event: audit.EventStart, Outcome: audit.OutcomeOK, BootID: "0f9a1c3e-0000-4000-8000-000000000000", Detail: "keybroker v1.0.0"},
		sampleRecord(),
		{ // every field
			Event: audit.EventRewrap, Outcome: audit.OutcomeError, Code: "UNAVAILABLE", Reason: "BACKEND_UNAVAILABLE",
			Client: audit.Client{
				Name: "tikv", Method: "RewrapKey", UID: &uid, GID: &gid, PID: math.MinInt32, Exe: "/usr/bin/tikv-server",
				SPIFFEID: "spiffe://prod/tikv", AccessKeyID: "KBTIKV", Addr: "127.0.0.1:40000",
			},
			Key: "tikv", Envelope: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
			Context: map[string]string{"cluster": "prod-1", "": "", "a": "b"},
			Source:  "stale_cache", Backend: "vault-main", KEK: "vault:cluster/transit/tikv:3",
			RequestID: "KQZ3N4V5JX7YH2M6T1B0C8D9EF", Latency: 1999 * time.Nanosecond, Count: math.MaxUint64,
			BootID: "boot", Detail: "detail",
		},
		{}, // nothing
		{ // texts that could be taken for the format
			Event: audit.EventUnwrap, Outcome: audit.OutcomeOK,
			Context: map[string]string{
				`","hash":"` + strings.Repeat("0", 64) + `"}`: "}\n{\"v\":1",
				`\`: `\u0000`, "hash": "x", "seq": "7",
			},
			Detail: "\",\"hash\":\"",
		},
		{ // what is escaped, and what is not
			Event: audit.EventUnwrap, Outcome: audit.OutcomeOK,
			Context: map[string]string{"controls": "\x00\x01\b\t\n\v\f\r\x1e\x1f\x7f", "text": "\u0080é\u2028\u2029\U0001f600</script>&"},
			Detail:  "not UTF-8: \xff\xc3(\xed\xa0\x80\xf4\x90\x80\x80.",
		},
		{ // a name that is not UTF-8, and one that passes itself off as its digest
			Event: audit.EventUnwrap, Outcome: audit.OutcomeOK,
			Context: map[string]string{"\xff": "v", "sha256:a8100ae6aa1940d0b663bb31cd466142ebbdbd5187131b92d93818987832eb89:1": "sha256:"},
		},
	}
}

// The bytes of these records are what they were in the first version.
func TestGoldenLines(t *testing.T) {
	want, err := os.ReadFile("testdata/golden.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	dir := privateDir(t)
	c := config(dir, audit.SyncAlways)
	now := time.Date(2026, 2, 28, 23, 59, 59, 120, time.FixedZone("", 3600))
	c.Now = func() time.Time { now = now.Add(time.Millisecond); return now }
	l := mustOpen(t, c, newDisk().system())
	for _, r := range goldenRecords() {
		if _, err := l.Append(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l)
	got, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	expectWhole(t, dir, nil)
}

// written appends r to a new log and returns its line.
func written(t testing.TB, r audit.Record, node string) []byte {
	t.Helper()
	dir := privateDir(t)
	c := config(dir, audit.SyncAlways)
	c.Node = node
	l := mustOpen(t, c, newDisk().system())
	if _, err := l.Append(context.Background(), r); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if r := verifyDir(t, dir); !r.OK() {
		t.Fatalf("%s", problems(r))
	}
	b, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	_, line, _ := bytes.Cut(b, []byte{'\n'})
	return line
}

func digest(s string) string { return fmt.Sprintf("sha256:%x:%d", sha256.Sum256([]byte(s)), len(s)) }

// A record is at most 8 KiB, whatever is put into it; what does not fit is
// replaced by its digest, and no more than has to be.
func TestRecordsOfAnySize(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	many := func(n, size int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("name-%03d", i)] = long(size)
		}
		return m
	}
	for _, test := range []struct {
		name    string
		record  audit.Record
		context map[string]string // as it is written; nil: as it is
		detail  string            // likewise
	}{
		{name: "what fits is left", record: audit.Record{Context: many(1, 6000), Detail: long(1000)}},
		{name: "one long value", record: audit.Record{Context: map[string]string{"a": long(8000), "b": "short"}, Detail: long(1000)},
			context: map[string]string{"a": digest(long(8000)), "b": "short"}},
		{name: "the longer of two values", record: audit.Record{Context: map[string]string{"a": long(5000), "b": long(5001)}},
			context: map[string]string{"a": long(5000), "b": digest(long(5001))}},
		{name: "values of one length go together", record: audit.Record{Context: map[string]string{"a": long(5000), "b": long(5000), "c": long(4999)}},
			context: map[string]string{"a": digest(long(5000)), "b": digest(long(5000)), "c": long(4999)}},
		{name: "the context before other texts", record: audit.Record{Context: many(1, 3000), Detail: long(6000)},
			context: map[string]string{"name-000": digest(long(3000))}, detail: long(6000)},
		{name: "then other texts", record: audit.Record{Context: many(1, 3000), Detail: long(9000)},
			context: map[string]string{digest(`{"name-000":"` + digest(long(3000)) + `"}`): ""}, detail: digest(long(9000))},
		{name: "more values than their digests leave room for", record: audit.Record{Context: many(100, 200)},
			context: map[string]string{digest(contextJSON(many(100, 200), digest)): ""}},
		{name: "a megabyte", record: audit.Record{Context: many(1, 1<<20)}, context: map[string]string{"name-000": digest(long(1 << 20))}},
		{name: "long names", record: audit.Record{Context: map[string]string{long(9000): "v"}},
			context: map[string]string{digest(`{"` + long(9000) + `":"v"}`): ""}},
		// 1800 bytes as they are written, which is what counts.
		{name: "long escapes", record: audit.Record{Context: map[string]string{"a": strings.Repeat("\x00", 300), "b": long(1700)}, Detail: long(5000)},
			context: map[string]string{"a": digest(strings.Repeat("\x00", 300)), "b": long(1700)}},
		{name: "short escapes", record: audit.Record{Context: map[string]string{"a": strings.Repeat("\n", 900), "b": long(1700)}, Detail: long(5000)},
			context: map[string]string{"a": digest(strings.Repeat("\n", 900)), "b": long(1700)}},
		{name: "bytes that are no UTF-8", record: audit.Record{Context: map[string]string{"a": strings.Repeat("\xff", 600), "b": long(1700)}, Detail: long(5000)},
			context: map[string]string{"a": digest(strings.Repeat("\xff", 600)), "b": long(1700)}},
		{name: "letters of two bytes", record: audit.Record{Context: map[string]string{"a": strings.Repeat("é", 900), "b": long(1700)}, Detail: long(5000)},
			context: map[string]string{"a": digest(strings.Repeat("é", 900)), "b": long(1700)}},
		{name: "a text that passes itself off as a digest", record: audit.Record{Context: map[string]string{"a": digest("secret")}, Detail: "sha256:"},
			context: map[string]string{"a": digest(digest("secret"))}, detail: digest("sha256:")},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, node := range []string{"n1", strings.Repeat("\x01", 255)} {
				if node != "n1" && test.name != "a megabyte" {
					continue // the other cases are about the last byte that fits
				}
				before := maps.Clone(test.record.Context)
				line := written(t, test.record, node)
				if len(line) > audit.MaxLine {
					t.Errorf("the line is %d bytes long", len(line))
				}
				var got struct {
					Context map[string]string
					Detail  string
				}
				if err := json.Unmarshal(line, &got); err != nil {
					t.Fatal(err)
				}
				context, detail := test.context, test.detail
				if context == nil {
					context = test.record.Context
				}
				if detail == "" {
					detail = test.record.Detail
				}
				if !maps.Equal(got.Context, context) {
					t.Errorf("context %.300v, want %.300v", got.Context, context)
				}
				if got.Detail != detail {
					t.Errorf("detail %.100q, want %.100q", got.Detail, detail)
				}
				if !maps.Equal(test.record.Context, before) {
					t.Error("the caller's context was changed")
				}
			}
		})
	}
}

// contextJSON is the text of a context of plain names, with each value replaced.
func contextJSON(m map[string]string, replace func(string) string) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		pairs = append(pairs, `"`+name+`":"`+replace(m[name])+`"`)
	}
	return "{" + strings.Join(pairs, ",") + "}"
}

// The record in which everything is as long as it can be has room all the same.
func TestLargestRecord(t *testing.T) {
	uid := uint32(math.MaxUint32)
	node := strings.Repeat("\x01", 255)
	frame := len(written(t, audit.Record{}, node)) - len(`"event":"","outcome":""`)
	huge := strings.Repeat("\x00", 100_000)
	edge := strings.Repeat("\x00", 92/6) // just short enough to be left
	for _, text := range []string{huge, edge, edge + "xx", edge + "xxx"} {
		r := audit.Record{
			Event: audit.Event(text), Outcome: audit.Outcome(text), Code: text, Reason: text,
			Client: audit.Client{Name: text, Method: text, UID: &uid, GID: &uid, PID: math.MinInt32, Exe: text, SPIFFEID: text, AccessKeyID: text, Addr: text},
			Key:    text, Envelope: text, Context: map[string]string{text: text}, Source: text, Backend: text, KEK: text,
			RequestID: text, Latency: math.MaxInt64, Count: math.MaxUint64, BootID: text, Detail: text,
		}
		line := written(t, r, node)
		if len(line) > audit.MaxLine {
			t.Errorf("%d bytes", len(line))
		}
		if n := len(line) - frame; text != huge && n > audit.RecordFloor {
			t.Errorf("a record of short texts takes %d bytes, want at most %d", n, audit.RecordFloor)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(*audit.Config)
		want   string
	}{
		{"no path", func(c *audit.Config) { c.Path = "" }, "no path is given"},
		{"no node", func(c *audit.Config) { c.Node = "" }, "the node's name must be 1 to 255 bytes"},
		{"a long node", func(c *audit.Config) { c.Node = strings.Repeat("n", 256) }, "the node's name must be 1 to 255 bytes"},
		{"a node that is no UTF-8", func(c *audit.Config) { c.Node = "\xff" }, "the node's name must be 1 to 255 bytes"},
		{"no sync", func(c *audit.Config) { c.Sync = "" }, `sync is ""; it must be os or always`},
		{"another sync", func(c *audit.Config) { c.Sync = "never" }, `sync is "never"; it must be os or always`},
		{"no interval", func(c *audit.Config) { c.SyncInterval = 0 }, "sync_interval is 0s; it must be positive"},
		{"no clock", func(c *audit.Config) { c.Now = nil }, "lacks Now, Random or Logger"},
		{"no random", func(c *audit.Config) { c.Random = nil }, "lacks Now, Random or Logger"},
		{"no logger", func(c *audit.Config) { c.Logger = nil }, "lacks Now, Random or Logger"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := config(privateDir(t), audit.SyncOS)
			test.damage(&c)
			l, err := audit.Open(c)
			if l != nil || err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}
