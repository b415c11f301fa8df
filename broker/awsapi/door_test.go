package awsapi_test

import (
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/internal/secret"
)

// TestDoor: who cannot prove who he is gets AWS's code, is on the record and in the
// log, and nothing of what he asks for is looked at.
func TestDoor(t *testing.T) {
	const body = `{"KeyId":` // is not JSON
	for _, tc := range []struct {
		name   string
		change func(*fixture, *http.Request)
		code   string
		claims string
	}{
		{"not signed", func(_ *fixture, r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationTokenException", ""},
		{"nonsense", func(_ *fixture, r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, "IncompleteSignatureException", ""},
		{"a header unsigned", func(_ *fixture, r *http.Request) { r.Header.Set("X-Amz-More", "x") }, "IncompleteSignatureException", accessKey},
		{"a session token", func(_ *fixture, r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x") }, "ExpiredTokenException", accessKey},
		{"unknown access key", func(f *fixture, r *http.Request) { f.sign(r, body, "AKIAREAL", secretKey, time.Now()) }, "UnrecognizedClientException", "AKIAREAL"},
		{"wrong secret", func(f *fixture, r *http.Request) { f.sign(r, body, accessKey, secretKey+"x", time.Now()) }, "InvalidSignatureException", accessKey},
		{"changed", func(_ *fixture, r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.Decrypt") }, "InvalidSignatureException", accessKey},
		{"another's body", func(f *fixture, r *http.Request) { f.sign(r, "{}", accessKey, secretKey, time.Now()) }, "InvalidSignatureException", accessKey},
		{"late", func(f *fixture, r *http.Request) {
			f.sign(r, body, accessKey, secretKey, time.Now().Add(-2*time.Minute))
		}, "InvalidSignatureException", accessKey},
		{"early", func(f *fixture, r *http.Request) {
			f.sign(r, body, accessKey, secretKey, time.Now().Add(2*time.Minute))
		}, "InvalidSignatureException", accessKey},
		{"another user", func(f *fixture, _ *http.Request) { f.uid.Store(ourUID + 1) }, "UnrecognizedClientException", accessKey},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			r := f.request("GenerateDataKey", body)
			tc.change(f, r)
			a := f.send(r)
			f.want(a, tc.code, bad)
			rec := f.last()
			if rec.Event != "denied-at-the-door" || rec.Outcome != "denied" || rec.Client.Name != "" || rec.Detail == "" {
				t.Errorf("recorded %+v", rec)
			}
			lines := f.logged()
			if len(lines) != 1 {
				t.Fatalf("logged %v", lines)
			}
			if l := lines[0]; l["access_key_id"] != tc.claims || l["uid"] != float64(f.uid.Load()) || l["code"] != tc.code || l["request_id"] != a.header.Get("X-Amzn-Requestid") {
				t.Errorf("logged %v", l)
			}
			for _, hidden := range []string{secretKey, "Signature="} {
				if strings.Contains(f.log.String(), hidden) || strings.Contains(string(a.body), hidden) {
					t.Errorf("%s is told", hidden)
				}
			}
		})
	}
}

// TestRecordNamesTheCaller: by access key and uid, of a call and of who was turned away.
func TestRecordNamesTheCaller(t *testing.T) {
	f := newFixture(t)
	check := func(accessKeyID string, uid *uint32) {
		t.Helper()
		c := f.last().Client
		if c.AccessKeyID != accessKeyID || (c.UID == nil) != (uid == nil) || uid != nil && *c.UID != *uid {
			t.Errorf("recorded %+v", c)
		}
	}
	f.call("ListKeys", `{}`)
	check(accessKey, new(uint32(ourUID)))
	r := f.request("ListKeys", `{}`)
	f.sign(r, `{}`, "AKIAREAL", secretKey, time.Now())
	f.send(r)
	check("AKIAREAL", new(uint32(ourUID)))
	f.unknownUID.Store(true)
	f.call("ListKeys", `{}`)
	check(accessKey, nil)
}

// TestDoorComesFirst: nothing else is answered to who is not proven.
func TestDoorComesFirst(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.Failures = 1000 })
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodOptions, http.MethodDelete, http.MethodPost} {
		for _, path := range []string{"/", "/kms", "/kms/", "//kms/../x", "/?x=y", "/healthz"} {
			r, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.address+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			f.want(f.send(r), "MissingAuthenticationTokenException", bad)
		}
	}
}

// TestPaths: an endpoint may have a path.
func TestPaths(t *testing.T) {
	f := newFixture(t)
	for _, path := range []string{"/", "/kms", "/kms/"} {
		r := f.request("ListKeys", `{}`)
		r.URL.Path = path
		f.sign(r, `{}`, accessKey, secretKey, time.Now())
		if a := f.send(r); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

// TestRequestLine: what is wrong with a signed request around its body.
func TestRequestLine(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*http.Request)
		code   string // "" is fine
	}{
		{"GET", func(r *http.Request) { r.Method = http.MethodGet }, "UnknownOperationException"},
		{"no target", func(r *http.Request) { r.Header.Del("X-Amz-Target") }, "UnknownOperationException"},
		{"another service", func(r *http.Request) { r.Header.Set("X-Amz-Target", "DynamoDB.ListKeys") }, "UnknownOperationException"},
		{"in small letters", func(r *http.Request) { r.Header.Set("X-Amz-Target", "TrentService.listkeys") }, "UnknownOperationException"},
		{"no content type", func(r *http.Request) { r.Header.Del("Content-Type") }, "SerializationException"},
		{"another content type", func(r *http.Request) { r.Header.Set("Content-Type", "application/x-www-form-urlencoded") }, "SerializationException"},
		{"content type with a charset", func(r *http.Request) { r.Header.Set("Content-Type", "Application/X-Amz-Json-1.1; charset=utf-8") }, ""},
		{"compressed", func(r *http.Request) { r.Header.Set("Content-Encoding", "gzip") }, "SerializationException"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			r := f.request("ListKeys", `{}`)
			tc.change(r)
			f.sign(r, `{}`, accessKey, secretKey, time.Now())
			a := f.send(r)
			if tc.code == "" {
				f.want(a, "", http.StatusOK)
				return
			}
			f.want(a, tc.code, bad)
			if rec := f.last(); rec.Event != "denied-at-the-door" || rec.Reason != "INVALID_ARGUMENT" || rec.Client.Name != "me" {
				t.Errorf("recorded %+v", rec)
			}
		})
	}
}

// TestFailuresAreLimited: by the caller's uid, and by nothing else.
func TestFailuresAreLimited(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.Failures, f.config.FailureRate = 3, 1e-9 })
	wrong := func() answer {
		r := f.request("ListKeys", `{}`)
		f.sign(r, `{}`, accessKey, secretKey+"x", time.Now())
		return f.send(r)
	}
	for range 3 {
		f.want(wrong(), "InvalidSignatureException", bad)
	}
	// A request that would be right waits too: nothing of it is looked at.
	f.want(wrong(), "KMSInternalException", fail)
	f.want(f.call("ListKeys", `{}`), "KMSInternalException", fail)

	// The access key and the address are the same.
	f.uid.Store(ourUID + 1)
	f.want(wrong(), "InvalidSignatureException", bad)
	// Whose uid is not known is anybody, from anywhere: by his failures he would lock
	// out all the others.
	f.unknownUID.Store(true)
	for range 10 {
		f.want(wrong(), "InvalidSignatureException", bad)
	}
	f.uid.Store(0)
	f.unknownUID.Store(false)
	f.want(wrong(), "InvalidSignatureException", bad)
	if !strings.Contains(f.log.String(), `"uid":"unknown"`) {
		t.Error("an unknown uid is not logged as one")
	}
}

// TestStrangersDoNotHideFailures: what many callers fail with who are not proven leaves
// room in the log for the failure of one who is.
func TestStrangersDoNotHideFailures(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.Failures = 1 << 20 })
	for range 200 {
		r := f.request("ListKeys", `{}`)
		f.sign(r, `{}`, accessKey, secretKey+"x", time.Now())
		f.want(f.send(r), "InvalidSignatureException", bad)
	}
	if n := strings.Count(f.log.String(), "InvalidSignatureException"); n == 0 || n == 200 {
		t.Fatalf("%d lines of 200", n)
	}
	f.want(f.call("DescribeKey", `{"KeyId":"nosuch"}`), "NotFoundException", bad)
	if !strings.Contains(f.log.String(), "nosuch") {
		t.Error("the log does not have it")
	}
}

// TestLogHoldsNoControlCharacters, whatever the key is called.
func TestLogHoldsNoControlCharacters(t *testing.T) {
	f := newFixture(t)
	f.want(f.call("DescribeKey", `{"KeyId":"a\u001b[31m\u009b31m\u202e\u2028\nb"}`), "NotFoundException", bad)
	log := f.log.String()
	if !strings.Contains(log, "\"key\":\"a\ufffd[31m") || strings.ContainsAny(log, "\u001b\u009b\u202e\u2028") || strings.Contains(log, `\u001b`) {
		t.Errorf("%q", log)
	}
}

// TestOnlyFailuresAreLimited: whoever is right may be so as often as he likes.
func TestOnlyFailuresAreLimited(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.config.Failures, f.config.FailureRate = 1, 1e-9 })
	for range 20 {
		f.want(f.call("ListKeys", `{}`), "", http.StatusOK)
		f.want(f.call("DescribeKey", `{"KeyId":"nosuch"}`), "NotFoundException", bad)
	}
}

// TestSecretTooShort: that is the operator's fault, not the client's, and on the record
// like every refusal.
func TestSecretTooShort(t *testing.T) {
	f := newFixture(t, func(f *fixture) { f.settings.AccessKeys[accessKey] = secret.NewValue([]byte("short")) })
	f.want(f.call("ListKeys", `{}`), "KMSInternalException", fail)
	if !strings.Contains(f.log.String(), "too short") {
		t.Errorf("logged %s", f.log)
	}
	if r := f.last(); r.Event != "denied-at-the-door" || r.Client.Method != "ListKeys" || !strings.Contains(r.Detail, "too short") {
		t.Errorf("recorded %+v", r)
	}
}

// TestReloadedAccessKeys: an access key that was removed is gone with the reload, also
// on a connection that is open.
func TestReloadedAccessKeys(t *testing.T) {
	f := newFixture(t)
	f.want(f.call("ListKeys", `{}`), "", http.StatusOK)
	f.settings.AccessKeys = map[string]secret.Value{"KBNEW": f.settings.AccessKeys[accessKey]}
	if err := f.broker.ReloadBySignal(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.want(f.call("ListKeys", `{}`), "UnrecognizedClientException", bad)
}

// TestLocalUser: with the listener that it is made for, callers are known by the user
// that they are, with TLS or without.
func TestLocalUser(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells users")
	}
	for _, change := range []func(*fixture){func(*fixture) {}, withTLS} {
		for _, tc := range []struct {
			uid  int
			code string
		}{{os.Getuid(), ""}, {os.Getuid() + 1, "UnrecognizedClientException"}} {
			f := newFixture(t, change, func(f *fixture) {
				f.settings.Policy = newPolicy(t, allowAll("me", uint32(tc.uid)))
				f.config.Caller = nil
			})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			f.serveOn(peer.LocalTCP(l, peer.Options{MaxPerUID: 100}))
			for range 3 {
				if a := f.call("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256"}`); a.code() != tc.code {
					t.Errorf("uid %d: %d %s", tc.uid, a.status, a.body)
				}
			}
		}
	}
}
