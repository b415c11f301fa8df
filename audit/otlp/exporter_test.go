package otlp_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	collogpb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logpb "go.opentelemetry.io/proto/otlp/logs/v1"

	"github.com/keybroker/keybroker/audit/otlp"
)

// What is there, and what comes later, is sent once and in order, also by the next
// process.
func TestExport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPlace(t), &fakeCollector{}
		p.open()
		p.append(2500)
		settle(time.Second) // it is on disk
		e := p.export(c)
		settle(time.Second)
		expect(t, c.bodies(), p.lines())
		if len(c.got) != 3 || len(c.got[0]) != 1000 {
			t.Errorf("it came in %d batches, the first of %d records", len(c.got), len(c.got[0]))
		}
		p.append(3)
		settle(2 * time.Second)
		expect(t, c.bodies(), p.lines())
		p.append(2)
		p.close()
		e.Close()
		expect(t, c.bodies(), p.lines()) // the last ones, too

		p.open()
		e = p.export(c)
		p.append(4)
		settle(2 * time.Second)
		expect(t, c.bodies(), p.lines())
		tries := c.attempts()
		settle(time.Hour)
		if c.attempts() != tries {
			t.Errorf("%d requests though nothing happened", c.attempts()-tries)
		}
		if p.seen.exported != len(p.lines()) || p.seen.seq != p.log.Head().Seq || p.seen.missing+p.seen.rejected != 0 {
			t.Errorf("observed: %+v", p.seen)
		}
		e.Close()
		p.close()
	})
}

// A record's line comes as it stands in the file, with what receivers look for
// beside it.
func TestRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPlace(t), &fakeCollector{}
		t.Setenv("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3")
		p.open()
		p.append(1)
		settle(time.Second)
		e := p.export(c)
		settle(time.Second)
		e.Close()
		first, second := attributes(c.got[0][0]), attributes(c.got[0][1])
		lines := p.lines()
		want := fmt.Sprintf("map[client:store event:unwrap hash:%s key:tikv log:%s outcome:ok seq:2]", hashOf(t, lines[1]), logOf(t, lines[0]))
		if got := fmt.Sprint(second); got != want {
			t.Errorf("attributes %s, want %s", got, want)
		}
		if first["seq"] != "1" || first["event"] != "create" || first["log"] != second["log"] {
			t.Errorf("the first record's attributes: %v", first)
		}
		r := c.got[0][1]
		var line struct{ Time time.Time }
		if err := json.Unmarshal([]byte(lines[1]), &line); err != nil {
			t.Fatal(err)
		}
		if r.TimeUnixNano != uint64(line.Time.UnixNano()) || r.SeverityText != "ok" || r.SeverityNumber != logpb.SeverityNumber_SEVERITY_NUMBER_INFO || r.EventName != "keybroker.audit.unwrap" {
			t.Errorf("%v", r)
		}
		if got := fmt.Sprint(c.resource); got != "map[service.instance.id:n1 service.name:keybroker service.version:v1]" {
			t.Errorf("resource %s", got)
		}
		p.close()
	})
}

func attributes(r *logpb.LogRecord) map[string]string {
	m := map[string]string{}
	for _, a := range r.Attributes {
		if m[a.Key] = a.Value.GetStringValue(); a.Key == "seq" {
			m[a.Key] = fmt.Sprint(a.Value.GetIntValue())
		}
	}
	return m
}

func logOf(t *testing.T, line string) string {
	t.Helper()
	var r struct{ Log string }
	if err := json.Unmarshal([]byte(line), &r); err != nil || r.Log == "" {
		t.Fatal(err, "no log id")
	}
	return r.Log
}

// Whatever keeps the collector from taking records, all of them come once it does,
// and it is not asked too often meanwhile.
func TestOutage(t *testing.T) {
	for name, fault := range map[string]func(*http.Request) (*http.Response, bool, error){
		"unreachable":  unreachable,
		"unavailable":  status(http.StatusServiceUnavailable),
		"bad request":  status(http.StatusBadRequest),
		"unauthorized": status(http.StatusUnauthorized),
		"redirected": func(*http.Request) (*http.Response, bool, error) {
			r := answer(http.StatusTemporaryRedirect, nil)
			r.Header.Set("Location", "http://elsewhere/v1/logs")
			return r, false, nil
		},
		"hangs": func(r *http.Request) (*http.Response, bool, error) {
			<-r.Context().Done()
			return nil, false, r.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, c := newPlace(t), &fakeCollector{}
				p.open()
				e := p.export(c)
				p.append(10)
				settle(2 * time.Second)
				c.answers(fault)
				before := c.attempts()
				for range 20 {
					p.append(5)
					settle(time.Minute)
				}
				if n := c.attempts() - before; n < 20 || n > 50 {
					t.Errorf("it was tried %d times in twenty minutes", n)
				}
				if up := p.seen.up[len(p.seen.up)-1]; up || p.seen.seq != 11 {
					t.Errorf("up %v, cursor at %d", up, p.seen.seq)
				}
				if n := strings.Count(p.logged.String(), "level=ERROR"); n != 1 {
					t.Errorf("%d errors are logged:\n%s", n, &p.logged)
				}
				c.answers(nil)
				settle(time.Minute)
				expect(t, c.bodies(), p.lines())
				if up := p.seen.up[len(p.seen.up)-1]; !up || !strings.Contains(p.logged.String(), "exported again") {
					t.Errorf("up %v, and logged:\n%s", up, &p.logged)
				}
				e.Close()
				p.close()
			})
		})
	}
}

// What a power loss could still take from the log is not sent.
func TestNothingBeforeItIsOnDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPlace(t), &fakeCollector{}
		p.interval = time.Minute
		p.open()
		e := p.export(c)
		settle(2 * time.Second)
		p.append(5)
		settle(50 * time.Second)
		if n := len(c.bodies()); n != 1 {
			t.Errorf("%d records were sent, want the first of the log alone", n)
		}
		settle(15 * time.Second)
		expect(t, c.bodies(), p.lines())
		e.Close()

		// Beside others that may be sent.
		p.append(5)
		settle(2 * time.Minute)
		onDisk := p.lines()
		p.append(3)
		e = p.export(c)
		settle(10 * time.Second)
		expect(t, c.bodies(), onDisk)
		settle(2 * time.Minute)
		expect(t, c.bodies(), p.lines())
		e.Close()
		p.close()
	})
}

// What the collector says that it does not want is not sent again, and told.
func TestRejectedRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPlace(t), &fakeCollector{}
		p.open()
		p.append(9)
		settle(time.Second)
		c.answers(func(*http.Request) (*http.Response, bool, error) {
			return answer(http.StatusOK, &collogpb.ExportLogsServiceResponse{
				PartialSuccess: &collogpb.ExportLogsPartialSuccess{RejectedLogRecords: 4, ErrorMessage: "no room for 4"},
			}), true, nil
		})
		e := p.export(c)
		settle(time.Hour)
		if len(c.got) != 1 || p.seen.rejected != 4 || p.seen.exported != 6 || p.seen.seq != 10 || !strings.Contains(p.logged.String(), "no room for 4") {
			t.Errorf("%d batches, observed %+v, logged:\n%s", len(c.got), p.seen, &p.logged)
		}
		e.Close()
		p.close()
	})
}

// An answer that is lost, and a cursor that cannot be written before the process
// ends, have the last batch sent again, and no more than that; a receiver knows its
// records by log, seq and hash.
func TestSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPlace(t), &fakeCollector{}
		p.open()
		p.append(4)
		e := p.export(c)
		settle(2 * time.Second)

		// The answer is lost.
		c.answers(func(*http.Request) (*http.Response, bool, error) { return nil, true, errUnreachable })
		p.append(3)
		settle(1500 * time.Millisecond)
		c.answers(nil)
		settle(time.Minute)
		lines := p.lines()
		expect(t, c.bodies(), append(lines[:8:8], lines[5:]...))

		// The cursor cannot be written, since something is in the way.
		if err := os.Mkdir(p.cursor()+".new", 0o700); err != nil {
			t.Fatal(err)
		}
		p.append(2)
		settle(2 * time.Second)
		p.append(2) // these must wait
		settle(time.Minute)
		lines = p.lines()
		expect(t, c.bodies()[8+3:], lines[8:10])
		if up := p.seen.up[len(p.seen.up)-1]; up {
			t.Error("it is said to be up")
		}
		e.Close() // as a crash: the cursor stays where it was
		if err := os.Remove(p.cursor() + ".new"); err != nil {
			t.Fatal(err)
		}
		e = p.export(c)
		settle(2 * time.Second)
		expect(t, c.bodies()[8+3+2:], lines[8:])
		first, again := c.got[len(c.got)-2][0], c.got[len(c.got)-1][0]
		if fmt.Sprint(attributes(first)) != fmt.Sprint(attributes(again)) {
			t.Errorf("the same record once with %v and once with %v", attributes(first), attributes(again))
		}
		e.Close()
		p.close()
	})
}

// Records that are gone before they were sent are told of, and do not stop those
// after them.
func TestMissingRecords(t *testing.T) {
	for _, former := range []bool{false, true} {
		t.Run(fmt.Sprintf("with a former file %v", former), func(t *testing.T) { missingRecords(t, former) })
	}
}

func missingRecords(t *testing.T, former bool) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPlace(t), &fakeCollector{}
		p.open()
		p.append(4)
		if former {
			if err := p.log.Rotate(t.Context()); err != nil {
				t.Fatal(err)
			}
		} else {
			p.append(1)
		}
		e := p.export(c)
		settle(2 * time.Second)
		sent := p.lines()
		// While the collector is away, somebody removes the file, and the log goes on
		// in another.
		c.answers(unreachable)
		p.append(3) // 7, 8, 9
		settle(2 * time.Second)
		if err := os.Remove(p.path()); err != nil {
			t.Fatal(err)
		}
		p.append(1) // 10
		settle(2 * time.Second)
		p.append(1)
		settle(2 * time.Second)
		c.answers(nil)
		settle(time.Minute)
		got := c.bodies()
		expect(t, got[:6], sent)
		lines := strings.Split(strings.TrimSpace(read(t, p.path())), "\n")
		expect(t, got[6:], lines)
		first := attributes(c.got[len(c.got)-1][0])
		if first["event"] != "repair" || p.seen.missing != 4 || !strings.Contains(p.logged.String(), "first=7 last=10") {
			t.Errorf("it goes on with %v; missing %d; logged:\n%s", first, p.seen.missing, &p.logged)
		}
		e.Close()
		p.close()
	})
}

// Another log in the place of the one that was exported is exported from its first
// record on, however long it is.
func TestAnotherLog(t *testing.T) {
	for _, records := range []int{1, 4, 9} { // the former had 4
		t.Run(fmt.Sprint(records, " records"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, c := newPlace(t), &fakeCollector{}
				p.open()
				p.append(3)
				e := p.export(c)
				settle(time.Second)
				p.close()
				e.Close()
				if err := os.Rename(p.path(), filepath.Join(p.dir, "evidence")); err != nil {
					t.Fatal(err)
				}
				p.open()
				p.append(records - 1)
				e = p.export(c)
				settle(time.Minute)
				expect(t, c.bodies()[4:], p.lines())
				if !strings.Contains(p.logged.String(), "not the one that was exported before") || p.seen.missing != 0 {
					t.Errorf("missing %d, logged:\n%s", p.seen.missing, &p.logged)
				}
				e.Close()
				p.close()
			})
		})
	}
}

// The end of the broker does not wait for a collector.
func TestCloseWhileItHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPlace(t), &fakeCollector{}
		c.answers(func(r *http.Request) (*http.Response, bool, error) {
			<-r.Context().Done()
			return nil, false, r.Context().Err()
		})
		p.open()
		e := p.export(c)
		settle(500 * time.Millisecond)
		p.close()
		began := time.Now()
		e.Close()
		if took := time.Since(began); took != time.Second {
			t.Errorf("it took %v", took)
		}
		e.Close() // again
	})
}

// A cursor that is not whole is never taken for the beginning.
func TestDamagedCursor(t *testing.T) {
	for _, content := range []string{"", "{", "{}", `{"log":"","seq":1,"hash":"00"}`, "\x00\x00"} {
		p := newPlace(t)
		p.open()
		if err := os.WriteFile(p.cursor(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := otlp.StartOver(p.config(), &fakeCollector{}); err == nil || !strings.Contains(err.Error(), p.cursor()) {
			t.Errorf("cursor %q: %v", content, err)
		}
		p.close()
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
