package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// tikvCall is one call to a KMS, and what happens meanwhile.
type tikvCall struct {
	master masterKey
	// blob is what to open. Without it a data key is made.
	blob    []byte
	divisor time.Duration
	attempt time.Duration
	// failed is called after each failed try with how many there were.
	failed func(n int)
}

// tikvAnswer is what a call gives if it succeeds.
type tikvAnswer struct{ plaintext, blob []byte }

// byStandIn makes the call as tikvStore does.
func (c tikvCall) byStandIn(t *testing.T) (made *kmsCall, a tikvAnswer) {
	t.Helper()
	n := 0
	clock := &tikvClock{divisor: c.divisor, during: func(time.Duration) { n++; c.failed(n) }}
	k := newTiKVKMS(c.master, clock, c.attempt, func(c *kmsCall) { made = c })
	if c.blob == nil {
		a.plaintext, a.blob, _ = k.generate(t.Context())
	} else {
		a.plaintext, _ = k.decrypt(t.Context(), c.blob)
	}
	return made, a
}

// byRust makes it by integration/tikvclient, which is built of what TiKV is built of.
func (c tikvCall) byRust(t *testing.T, program string) (*kmsCall, tikvAnswer) {
	t.Helper()
	request := map[string]any{
		"endpoint": c.master.endpoint, "region": c.master.region, "key_id": c.master.keyID,
		"access_key": c.master.accessKey, "secret_access_key": c.master.secret,
		"divisor": int(c.divisor), "timeout_ms": c.attempt.Milliseconds(),
	}
	made := &kmsCall{operation: opGenerate, keyID: c.master.keyID}
	if c.blob != nil {
		made.operation = opDecrypt
		request["ciphertext_blob"] = base64.StdEncoding.EncodeToString(c.blob)
	}
	in, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = slices.DeleteFunc(append(os.Environ(), awsEnvironment()...), func(v string) bool { return strings.HasSuffix(v, "=") })
	if c.master.caFile != "" {
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+c.master.caFile)
	}
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var end struct {
		WaitedMS       int64   `json:"waited_ms"`
		Error          *string `json:"error"`
		Plaintext      []byte  `json:"plaintext"`
		CiphertextBlob []byte  `json:"ciphertext_blob"`
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var try struct {
			Class     *class `json:"class"`
			Code      string `json:"code"`
			Retryable bool   `json:"retryable"`
		}
		if err := json.Unmarshal(lines.Bytes(), &try); err != nil {
			t.Fatalf("%v: %s", err, lines.Bytes())
		}
		if try.Class == nil {
			if err := json.Unmarshal(lines.Bytes(), &end); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if try.Retryable != try.Class.retryable() {
			t.Errorf("the Rust client tries %s again: %v", *try.Class, try.Retryable)
		}
		made.failed = append(made.failed, kmsTry{*try.Class, try.Code})
		if try.Retryable {
			c.failed(len(made.failed))
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("the Rust client: %v\n%s", err, &stderr)
	}
	made.ok = end.Error == nil
	if !made.ok && c.blob != nil && *end.Error != string(wrongMasterKey) {
		t.Errorf("a failed Decrypt ends as %s", *end.Error)
	}
	made.slept = time.Duration(end.WaitedMS) * time.Millisecond
	return made, tikvAnswer{end.Plaintext, end.CiphertextBlob}
}

// tikvClient is the Rust client. `make integration` builds it where Rust is new enough.
func tikvClient(t *testing.T) string {
	t.Helper()
	program := os.Getenv("KEYBROKER_TIKVCLIENT")
	if _, err := os.Stat(program); program == "" || err != nil {
		t.Skip("KEYBROKER_TIKVCLIENT does not name integration/tikvclient; `make integration` builds it with cargo, of the version that its Cargo.toml says")
	}
	return program
}

// TestTiKVClient: TiKV's own SDK and HTTP client are told what the stand-in is told, and
// what each makes of it is the same.
func TestTiKVClient(t *testing.T) {
	t.Parallel()
	program := tikvClient(t)
	v := startVault(t)
	vault := newVault(t, v, "tikv")
	d := newAWSDoor(t, "", "")
	d.options = ", answer_by: 300ms"
	d.configure(vault.config, "  tikv: {recipients: "+listOf(vault)+"}\n  other: {recipients: "+listOf(vault)+"}")
	d.start()
	door := newLink(t, d.address)
	master := d.masterKey("tikv")
	master.endpoint = "http://" + door.address()

	blob := func(t *testing.T) (blob []byte) {
		t.Helper()
		waitFor(t, "a data key is made, though the KMS may be taken for down yet", func() bool {
			_, a := tikvCall{master: master, divisor: 20, attempt: tikvAttempt, failed: func(int) {}}.byStandIn(t)
			blob = a.blob
			return blob != nil
		})
		d.purgeByForce("tikv")
		return blob
	}
	// until is a fault that ends after the third try.
	until := func(begin, end func()) func() func(int) {
		return func() func(int) {
			begin()
			return func(n int) {
				if n == 3 {
					end()
				}
			}
		}
	}
	secret := func(m *masterKey) { m.secret = outsiderSecret }
	for _, tt := range []struct {
		name   string
		change func(*masterKey)
		opens  bool
		// fault is made before the call, and returns tikvCall.failed. repair takes it
		// back after the call, if the call does not.
		fault   func() func(int)
		repair  func()
		divisor time.Duration // 20
		attempt time.Duration // TiKV's
		want    string        // of kmsCall.String, without the operation and key id
	}{
		{name: "generate", want: `ok`},
		{name: "decrypt", opens: true, want: `ok`},
		{name: "wrong key id", opens: true, change: func(m *masterKey) { m.keyID = "other" }, want: `WrongMasterKey\(IncorrectKeyException\)`},
		{name: "unknown key id, generate", change: func(m *masterKey) { m.keyID = "nosuch" }, want: `ApiNotFound\(NotFoundException\)`},
		{name: "unknown key id, decrypt", opens: true, change: func(m *masterKey) { m.keyID = "nosuch" }, want: `WrongMasterKey\(NotFoundException\)`},
		{name: "wrong signature, generate", change: secret, want: `KmsError::Other\(InvalidSignatureException\)`},
		{name: "wrong signature, decrypt", opens: true, change: secret, want: `KmsError::Other\(InvalidSignatureException\) as WrongMasterKey`},
		{name: "unknown access key", change: func(m *masterKey) { m.accessKey = awsAccessKey }, want: `KmsError::Other\(UnrecognizedClientException\)`},
		{
			name: "not allowed", opens: true, want: `KmsError::Other\(AccessDeniedException\) as WrongMasterKey`,
			change: func(m *masterKey) { m.accessKey, m.secret = outsiderAccessKey, outsiderSecret },
		},
		{name: "any region", change: func(m *masterKey) { m.region = "anywhere-1" }, want: `ok`},
		{name: "a path in the endpoint", change: func(m *masterKey) { m.endpoint += "/kms" }, want: `ok`},
		{
			name: "an outage that ends", opens: true, fault: until(vault.link.refuse, vault.link.accept),
			want: `again after ApiInternal\(KMSInternalException\); ok`,
		},
		{
			name: "an outage that ends, generate", fault: until(func() { d.purgeByForce("tikv"); vault.link.refuse() }, vault.link.accept),
			want: `again after ApiInternal\(KMSInternalException\); ok`,
		},
		{
			name: "a KMS that hangs", opens: true, fault: until(vault.link.hang, vault.link.clear),
			want: `again after (ApiInternal\(KMSInternalException\), )?ApiTimeout\(DependencyTimeoutException\); ok`,
		},
		{
			name: "a broker that hangs", opens: true, attempt: tikvAttempt / 20, fault: until(door.hang, door.clear),
			want: `again after (ApiTimeout, )?Other; ok`,
		},
		{
			name: "a broker that is restarted", opens: true, fault: until(door.refuse, door.accept),
			want: `again after ApiTimeout; ok`,
		},
		{
			name: "no broker", opens: true, divisor: 200, repair: door.accept, fault: func() func(int) { door.refuse(); return func(int) {} },
			want: `again after ApiTimeout; ApiTimeout as WrongMasterKey`,
		},
		{
			name: "a master key that is disabled", opens: true, want: `KmsError::Other\(DisabledException\) as WrongMasterKey`,
			fault:  func() func(int) { v.rotate("tikv"); v.minDecryption("tikv", v.version("tikv")); return func(int) {} },
			repair: func() { v.minDecryption("tikv", 1) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for who, by := range map[string]func(tikvCall) (*kmsCall, tikvAnswer){
				"stand-in": func(c tikvCall) (*kmsCall, tikvAnswer) { return c.byStandIn(t) },
				"Rust":     func(c tikvCall) (*kmsCall, tikvAnswer) { return c.byRust(t, program) },
			} {
				c := tikvCall{master: master, divisor: 20, attempt: tikvAttempt, failed: func(int) {}}
				if tt.divisor != 0 {
					c.divisor = tt.divisor
				}
				if tt.attempt != 0 {
					c.attempt = tt.attempt
				}
				if tt.opens {
					c.blob = blob(t)
				}
				if tt.change != nil {
					tt.change(&c.master)
				}
				if tt.fault != nil {
					c.failed = tt.fault()
				}
				made, answer := by(c)
				if tt.repair != nil {
					tt.repair()
				}
				want := made.operation + " " + c.master.keyID + ": "
				if said := made.String(); !regexp.MustCompile("^" + regexp.QuoteMeta(want) + "(?:" + tt.want + ")$").MatchString(said) {
					t.Errorf("%s: %s\nwant %s%s", who, said, want, tt.want)
				}
				if made.ok && len(answer.plaintext) != 32 {
					t.Errorf("%s: a data key of %d bytes", who, len(answer.plaintext))
				}
				if made.ok && !tt.opens { // what one is given the other opens
					again := tikvCall{master: c.master, blob: answer.blob, divisor: 20, attempt: tikvAttempt, failed: func(int) {}}
					for _, opened := range []func() (*kmsCall, tikvAnswer){
						func() (*kmsCall, tikvAnswer) { return again.byStandIn(t) },
						func() (*kmsCall, tikvAnswer) { return again.byRust(t, program) },
					} {
						if made, a := opened(); !made.ok || !bytes.Equal(a.plaintext, answer.plaintext) {
							t.Errorf("%s: what was given out does not open: %s", who, made)
						}
					}
				}
				if tt.divisor != 0 && (len(made.failed) != tikvRetries+1 || made.slept < 319*time.Second || made.slept > 333*time.Second) {
					t.Errorf("%s: %d tries and %v between them", who, len(made.failed), made.slept)
				}
			}
		})
	}
}

// version is the newest version of a key.
func (v *vaultServer) version(name string) int {
	v.t.Helper()
	n, err := v.read("transit/keys/" + name)["latest_version"].(json.Number).Int64()
	v.must(err)
	return int(n)
}

// TestTiKVClientNeverHears: what the broker does not say, because of what TiKV makes of
// it: most would have an outage end a start at once. The last ones are a connection's
// doing, and a namespace is what AWS may put before a code.
func TestTiKVClientNeverHears(t *testing.T) {
	t.Parallel()
	program := tikvClient(t)
	for _, tt := range []struct {
		name, body string
		status     int
		want       string
		requests   int
		short      bool // the answer ends before it should
	}{
		{"throttled", `{"__type":"ThrottlingException","message":"slow down"}`, http.StatusBadRequest, `KmsError::Other(ThrottlingException) as WrongMasterKey`, sdkAttempts, false},
		{"limit exceeded", `{"__type":"LimitExceededException","message":"slow down"}`, http.StatusBadRequest, `KmsError::Other(LimitExceededException) as WrongMasterKey`, sdkAttempts, false},
		{"key unavailable", `{"__type":"KeyUnavailableException","message":"later"}`, http.StatusInternalServerError, `KmsError::Other(KeyUnavailableException) as WrongMasterKey`, sdkAttempts, false},
		{"a page", `<html>Service Unavailable</html>`, http.StatusServiceUnavailable, `KmsError::Other as WrongMasterKey`, sdkAttempts, false},
		{"an unknown code", `{"__type":"ServiceUnavailable","message":"later"}`, http.StatusServiceUnavailable, `KmsError::Other(ServiceUnavailable) as WrongMasterKey`, sdkAttempts, false},
		{"refused with a namespace", `{"__type":"com.amazonaws.kms#IncorrectKeyException","message":"no"}`, http.StatusBadRequest, `WrongMasterKey(IncorrectKeyException)`, 1, false},
		{"cut short", `{"__type":"KMSInternal`, http.StatusInternalServerError, `again after ApiInternal; ApiInternal as WrongMasterKey`, sdkAttempts * (tikvRetries + 1), true},
		{"a key cut short", `{"Plaintext":"`, http.StatusOK, `KmsError::Other as WrongMasterKey`, sdkAttempts, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for who, by := range map[string]func(tikvCall) (*kmsCall, tikvAnswer){
				"stand-in": func(c tikvCall) (*kmsCall, tikvAnswer) { return c.byStandIn(t) },
				"Rust":     func(c tikvCall) (*kmsCall, tikvAnswer) { return c.byRust(t, program) },
			} {
				requests := 0
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					requests++
					w.Header().Set("Content-Type", "application/x-amz-json-1.1")
					if tt.short {
						w.Header().Set("Content-Length", "1000")
					}
					w.WriteHeader(tt.status)
					_, _ = w.Write([]byte(tt.body))
				}))
				defer server.Close()
				made, _ := by(tikvCall{
					master:  masterKey{keyID: "tikv", endpoint: server.URL, region: doorRegion, accessKey: storeAccessKey, secret: storeSecret},
					blob:    []byte("a blob"),
					divisor: 200, attempt: tikvAttempt, failed: func(int) {},
				})
				server.Close()
				if want := "Decrypt tikv: " + tt.want; made.String() != want || requests != tt.requests {
					t.Errorf("%s: %s in %d requests, want %s in %d", who, made, requests, want, tt.requests)
				}
			}
		})
	}
}
