package awsapi_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/policy"
)

const (
	bad  = http.StatusBadRequest
	fail = http.StatusInternalServerError
)

// outcomes says what a client gets for each reason of the broker, and how a client of
// a real broker comes to get it. The last column is the row of "Broker outcome →
// answer" in what TiKV needs: which of its answers has TiKV try again for minutes,
// which ends at once, and which drives a rotation.
var outcomes = []struct {
	reason  broker.Reason
	code    string
	status  int
	row     string
	provoke func(*testing.T) (*fixture, answer)
}{
	{broker.KeyNotFound, "NotFoundException", bad, "not_found", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t)
		return f, f.call("GenerateDataKey", `{"KeyId":"nosuch","KeySpec":"AES_256"}`)
	}},
	{broker.AccessDenied, "AccessDeniedException", bad, "permission_denied", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t, allowed("tikv", policy.Unwrap))
		return f, f.call("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256"}`)
	}},
	{broker.InvalidEnvelope, "InvalidCiphertextException", bad, "invalid_ciphertext", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t)
		c := f.generate("tikv")
		return f, f.decrypt("tikv", c[:len(c)-8])
	}},
	{broker.WrongKey, "IncorrectKeyException", bad, "wrong_key", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t)
		return f, f.decrypt("other", f.generate("tikv"))
	}},
	{broker.InvalidArgument, "ValidationException", bad, "bad field", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t)
		pairs := strings.Repeat("x", 8<<10)
		return f, f.call("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256","EncryptionContext":{"a":"`+pairs+`"}}`)
	}},
	{broker.KEKDisabled, "DisabledException", bad, "key_disabled", decryptFrom(backends.Disabled)},
	{broker.KEKDenied, "AccessDeniedException", bad, "permission_denied", decryptFrom(backends.Denied)},
	{broker.NoBackend, "KMSInvalidStateException", bad, "key_disabled", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t)
		c := f.generate("tikv")
		f.settings.Keys = []broker.Key{newKey("tikv", "b"), newKey("other", "b")}
		if err := f.broker.ReloadBySignal(t.Context()); err != nil {
			t.Fatal(err)
		}
		return f, f.decrypt("tikv", c)
	}},
	{broker.BackendUnavailable, "KMSInternalException", fail, "unavailable", decryptFrom(backends.Unavailable)},
	{broker.BackendUnavailable, "KMSInternalException", fail, "backend refused the broker's credential", decryptFrom(backends.Unauthenticated)},
	{broker.AuditUnavailable, "KMSInternalException", fail, "unavailable", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t)
		c := f.generate("tikv")
		f.closeAudit()
		return f, f.decrypt("tikv", c)
	}},
	{broker.BackendThrottled, "KMSInternalException", fail, "throttled by backend", decryptFrom(backends.Throttled)},
	{broker.RateLimited, "KMSInternalException", fail, "throttled by backend", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t, func(f *fixture) { f.settings.MissRates = map[string]float64{"me": 1e-9} })
		c := f.generate("tikv")
		f.kms.down(backends.Unavailable) // so that nothing is cached after the first
		f.purge()
		f.decrypt("tikv", c)
		return f, f.decrypt("tikv", c)
	}},
	{broker.Deadline, "DependencyTimeoutException", http.StatusServiceUnavailable, "deadline", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t, func(f *fixture) { f.config.AnswerBy = 100 * time.Millisecond })
		f.kms.hang()
		return f, f.call("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256"}`)
	}},
	{broker.Internal, "KMSInternalException", fail, "internal bug/panic", func(t *testing.T) (*fixture, answer) {
		f := newFixture(t)
		f.generate("tikv")
		f.random.broken.Store(true)
		return f, f.call("GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256"}`)
	}},
}

// decryptFrom asks for what only a KMS can open that fails with class.
func decryptFrom(class backends.Class) func(*testing.T) (*fixture, answer) {
	return func(t *testing.T) (*fixture, answer) {
		f := newFixture(t)
		c := f.generate("tikv")
		f.purge()
		f.kms.down(class)
		return f, f.decrypt("tikv", c)
	}
}

func TestOutcomes(t *testing.T) {
	tested := map[broker.Reason]bool{}
	for _, o := range outcomes {
		tested[o.reason] = true
		t.Run(string(o.reason)+" "+o.row, func(t *testing.T) {
			f, a := o.provoke(t)
			f.want(a, o.code, o.status)
			id := a.header.Get("X-Amzn-Requestid")

			lines := f.logged()
			line := lines[len(lines)-1]
			if line["level"] != "WARN" || line["reason"] != string(o.reason) || line["code"] != o.code || line["request_id"] != id ||
				line["access_key_id"] != accessKey || line["uid"] != float64(ourUID) || line["key"] == "" || line["error"] != a.message() {
				t.Errorf("logged %v", line)
			}
			if o.reason == broker.AuditUnavailable {
				return // that one cannot be recorded
			}
			if r := f.last(); r.Reason != string(o.reason) || r.Outcome == "ok" || r.RequestID != id {
				t.Errorf("recorded %+v; the request's id is %s", r, id)
			}
		})
	}
	for _, o := range broker.Outcomes() {
		if !tested[o.Reason] {
			t.Errorf("%s is not tested", o.Reason)
		}
	}
}

// TestRefusals: what this door refuses a proven caller on its own.
func TestRefusals(t *testing.T) {
	f := newFixture(t)
	blob := f.generate("tikv")
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, tc := range []struct{ name, operation, body, code, reason string }{
		{"no KeyId", "GenerateDataKey", `{"KeySpec":"AES_256"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"KeyId null", "GenerateDataKey", `{"KeyId":null,"KeySpec":"AES_256"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"KeyId empty", "GenerateDataKey", `{"KeyId":"","KeySpec":"AES_256"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"KeyId too long", "GenerateDataKey", `{"KeyId":"` + long(2049) + `","KeySpec":"AES_256"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"KeyId just long", "GenerateDataKey", `{"KeyId":"` + long(2048) + `","KeySpec":"AES_256"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"KeyId with a slash", "GenerateDataKey", `{"KeyId":"key/tikv","KeySpec":"AES_256"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"no alias", "GenerateDataKey", `{"KeyId":"alias/","KeySpec":"AES_256"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"alias of nothing", "GenerateDataKey", `{"KeyId":"alias/nosuch","KeySpec":"AES_256"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"ARN of another region", "Decrypt", `{"KeyId":"arn:aws:kms:eu-west-1:000000000000:key/tikv","CiphertextBlob":"` + blob + `"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"ARN of another account", "Decrypt", `{"KeyId":"arn:aws:kms:eu-central-1:111122223333:key/tikv","CiphertextBlob":"` + blob + `"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"ARN of another service", "Decrypt", `{"KeyId":"arn:aws:s3:eu-central-1:000000000000:key/tikv","CiphertextBlob":"` + blob + `"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"ARN of another cloud", "Decrypt", `{"KeyId":"arn:awful:kms:eu-central-1:000000000000:key/tikv","CiphertextBlob":"` + blob + `"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"ARN of something else", "Decrypt", `{"KeyId":"` + arn("tikv") + `","CiphertextBlob":"` + blob + `"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"ARN cut short", "Decrypt", `{"KeyId":"arn:aws:kms","CiphertextBlob":"` + blob + `"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"neither spec nor number", "GenerateDataKey", `{"KeyId":"tikv"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"spec and number", "GenerateDataKeyWithoutPlaintext", `{"KeyId":"tikv","KeySpec":"AES_256","NumberOfBytes":32}`, "ValidationException", "INVALID_ARGUMENT"},
		{"unknown spec", "GenerateDataKey", `{"KeyId":"tikv","KeySpec":"aes_256"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"0 bytes", "GenerateDataKey", `{"KeyId":"tikv","NumberOfBytes":0}`, "ValidationException", "INVALID_ARGUMENT"},
		{"1025 bytes", "GenerateDataKey", `{"KeyId":"tikv","NumberOfBytes":1025}`, "ValidationException", "INVALID_ARGUMENT"},
		{"-1 bytes", "GenerateRandom", `{"NumberOfBytes":-1}`, "ValidationException", "INVALID_ARGUMENT"},
		{"no number", "GenerateRandom", `{}`, "ValidationException", "INVALID_ARGUMENT"},
		{"custom key store", "GenerateRandom", `{"NumberOfBytes":1,"CustomKeyStoreId":"cks-1"}`, "UnsupportedOperationException", "INVALID_ARGUMENT"},
		{"11 grant tokens", "GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256","GrantTokens":["` + strings.Repeat(`a","`, 10) + `a"]}`, "ValidationException", "INVALID_ARGUMENT"},
		{"empty grant token", "GenerateDataKey", `{"KeyId":"tikv","KeySpec":"AES_256","GrantTokens":[""]}`, "ValidationException", "INVALID_ARGUMENT"},
		{"RSA", "Decrypt", `{"CiphertextBlob":"` + blob + `","EncryptionAlgorithm":"RSAES_OAEP_SHA_256"}`, "InvalidKeyUsageException", "INVALID_ARGUMENT"},
		{"no blob", "Decrypt", `{"KeyId":"tikv"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"empty blob", "Decrypt", `{"KeyId":"tikv","CiphertextBlob":""}`, "ValidationException", "INVALID_ARGUMENT"},
		{"blob too large", "Decrypt", `{"KeyId":"tikv","CiphertextBlob":"` + strings.Repeat("AAAA", 2049) + `"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"foreign blob, no KeyId", "Decrypt", `{"CiphertextBlob":"AQICAHg="}`, "InvalidCiphertextException", "INVALID_ENVELOPE"},
		{"foreign blob, KeyId", "Decrypt", `{"KeyId":"tikv","CiphertextBlob":"AQICAHg="}`, "IncorrectKeyException", "WRONG_KEY"},
		{"wrong context", "Decrypt", `{"KeyId":"tikv","CiphertextBlob":"` + blob + `","EncryptionContext":{"a":"b"}}`, "InvalidCiphertextException", "INVALID_ENVELOPE"},
		{"dry run modifiers", "Decrypt", `{"KeyId":"tikv","DryRun":true,"DryRunModifiers":["IGNORE_CIPHERTEXT"]}`, "UnsupportedOperationException", "INVALID_ARGUMENT"},
		{"no plaintext", "Encrypt", `{"KeyId":"tikv"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"empty plaintext", "Encrypt", `{"KeyId":"tikv","Plaintext":""}`, "ValidationException", "INVALID_ARGUMENT"},
		{"plaintext too large", "Encrypt", `{"KeyId":"tikv","Plaintext":"` + strings.Repeat("AAAA", 1366) + `"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"no destination", "ReEncrypt", `{"CiphertextBlob":"` + blob + `"}`, "ValidationException", "INVALID_ARGUMENT"},
		{"wrong source", "ReEncrypt", `{"CiphertextBlob":"` + blob + `","SourceKeyId":"other","DestinationKeyId":"tikv"}`, "IncorrectKeyException", "WRONG_KEY"},
		{"no such key described", "DescribeKey", `{"KeyId":"nosuch"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"Limit 0", "ListKeys", `{"Limit":0}`, "ValidationException", "INVALID_ARGUMENT"},
		{"Limit 1001", "ListAliases", `{"Limit":1001}`, "ValidationException", "INVALID_ARGUMENT"},
		{"empty marker", "ListAliases", `{"Marker":""}`, "ValidationException", "INVALID_ARGUMENT"},
		{"aliases of no key", "ListAliases", `{"KeyId":"nosuch"}`, "NotFoundException", "KEY_NOT_FOUND"},
		{"unknown operation", "CreateKey", `{}`, "UnknownOperationException", "INVALID_ARGUMENT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.t = t
			a := f.call(tc.operation, tc.body)
			f.want(a, tc.code, bad)
			if r := f.last(); r.Reason != tc.reason || r.Client.Name != "me" || r.RequestID != a.header.Get("X-Amzn-Requestid") {
				t.Errorf("recorded %+v", r)
			}
		})
	}
}

// TestPassthroughKeyIDs: a cluster that moves here from AWS keeps its key id.
func TestPassthroughKeyIDs(t *testing.T) {
	const old, id = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab", "1234abcd-12ab"
	f := newFixture(t, func(f *fixture) {
		f.settings.Keys[0].Passthrough = &broker.Passthrough{Recipient: broker.Recipient{Backend: "one", Key: old}}
		f.config.KeyOf = func(keyID string) (string, bool) { return "tikv", keyID == old || keyID == id }
	})
	f.kms.stored["AWS's"] = fakeWrap{old, "\x00\x00\x00\x00", []byte("a data key of 32 bytes, as stored")[:32]}
	for _, keyID := range []string{old, id} {
		if a := f.decrypt(keyID, "QVdTJ3M="); a.status != http.StatusOK || a.text("KeyId") != arn("key/tikv") || a.text("Plaintext") == "" {
			t.Errorf("%s: %d %s", keyID, a.status, a.body)
		}
		if a := f.decrypt(keyID, f.generate(keyID)); a.status != http.StatusOK {
			t.Errorf("%s: %d %s", keyID, a.status, a.body)
		}
	}
	f.want(f.decrypt(strings.Replace(old, "1234", "5678", 1), "QVdTJ3M="), "NotFoundException", bad)
	f.want(f.decrypt("other", "QVdTJ3M="), "IncorrectKeyException", bad)
}
