package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/audit/verify"
)

// Any record becomes one line of at most 8 KiB, which is JSON, which the verifier
// takes, and which says of each text that it is the text or its digest. big makes
// the context's values and the detail so many times as long.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, event, outcome, code, reason, name, method, exe, key, detail string,
		pair1, value1, pair2, value2 string, uid uint32, pid int32, latency int64, count uint64, big uint16,
	) {
		r := audit.Record{
			Event: audit.Event(event), Outcome: audit.Outcome(outcome), Code: code, Reason: reason,
			Client: audit.Client{Name: name, Method: method, Exe: exe, UID: &uid, PID: pid},
			Key:    key, Detail: strings.Repeat(detail, 1+int(big)%64),
			Context: map[string]string{pair1: strings.Repeat(value1, 1+int(big)%512), pair2: value2},
			Latency: time.Duration(latency), Count: count,
		}
		before := maps.Clone(r.Context)
		dir := t.TempDir()
		c := config(dir, audit.SyncAlways)
		l := mustOpen(t, c, newDisk().system())
		if _, err := l.Append(context.Background(), r); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		if !maps.Equal(r.Context, before) {
			t.Fatal("the caller's context was changed")
		}

		b := readFile(t, c.Path)
		lines := bytes.SplitAfter(b, []byte{'\n'})
		if len(lines) != 3 || len(lines[2]) > 0 || len(lines[1]) > audit.MaxLine || !json.Valid(lines[1]) {
			t.Fatalf("%d bytes: %q", len(lines[1]), b)
		}
		result, err := verify.Files(context.Background(), []string{c.Path}, verify.Options{})
		if err != nil || !result.OK() || result.Records != 2 || result.NoteCount > 0 {
			t.Fatalf("%+v, %v\n%q", result, err, b)
		}

		var got struct {
			Event, Outcome, Code, Reason, Key, Detail string
			Client                                    struct {
				Name, Method, Exe string
				UID               *uint32
				PID               int32
			}
			Context map[string]string
			Latency int64 `json:"latency_us"`
			Count   uint64
		}
		if err := json.Unmarshal(lines[1], &got); err != nil {
			t.Fatal(err)
		}
		for _, text := range [][2]string{
			{event, got.Event}, {outcome, got.Outcome}, {code, got.Code}, {reason, got.Reason}, {key, got.Key}, {r.Detail, got.Detail},
			{name, got.Client.Name}, {method, got.Client.Method}, {exe, got.Client.Exe},
		} {
			if !says(text[1], text[0]) {
				t.Errorf("%.100q was written as %.100q", text[0], text[1])
			}
		}
		if got.Client.UID == nil || *got.Client.UID != uid || got.Client.PID != pid || got.Count != count || got.Latency != max(r.Latency.Microseconds(), 0) {
			t.Errorf("numbers: %s", lines[1])
		}
		asWhole := len(got.Context) == 1
		for name := range r.Context {
			_, plain := got.Context[name]
			_, hashed := got.Context[digest(name)]
			asWhole = asWhole && !plain && !hashed
		}
		if asWhole {
			for name, value := range got.Context {
				if !strings.HasPrefix(name, "sha256:") || value != "" {
					t.Errorf("the context as a whole was written as %q", got.Context)
				}
			}
			return
		}
		if len(got.Context) != len(r.Context) {
			t.Errorf("the context %q was written as %q", r.Context, got.Context)
		}
		for name, value := range r.Context {
			written, ok := got.Context[name]
			if !ok {
				written, ok = got.Context[digest(name)]
			}
			if !ok || !says(written, value) {
				t.Errorf("%q: %.100q was written as %.100q", name, value, written)
			}
		}
	})
}

// says tells whether written stands for text, and for no other.
func says(written, text string) bool {
	if written == digest(text) {
		return true
	}
	return written == string([]rune(text)) && !strings.HasPrefix(text, "sha256:")
}

func TestFuzzTargetsHaveSeeds(t *testing.T) {
	for _, name := range []string{"FuzzRecord"} {
		seeds, err := os.ReadDir(filepath.Join("testdata/fuzz", name))
		if err != nil || len(seeds) == 0 {
			t.Errorf("%s has no seeds: %v", name, err)
		}
	}
}
