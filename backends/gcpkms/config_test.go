package gcpkms_test

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends/gcpkms"
)

// New asks nobody and reads nothing, and refuses what cannot be meant.
func TestNew(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	for name, test := range map[string]struct {
		cfg  gcpkms.Config
		word string // what the error says; "" for none
	}{
		"nothing":             {gcpkms.Config{}, ""},
		"everything":          {gcpkms.Config{Endpoint: "kms.internal:443", CAFile: nowhere, CredentialsFile: nowhere, Impersonate: "a@b.iam.gserviceaccount.com", QuotaProject: "example.com:p", Timeout: 1}, ""},
		"IPv6":                {gcpkms.Config{Endpoint: "[fd00::1]:443"}, ""},
		"a URL":               {gcpkms.Config{Endpoint: "https://kms.internal:443"}, "HOST:PORT"},
		"a host":              {gcpkms.Config{Endpoint: "kms.internal"}, "HOST:PORT"},
		"no host":             {gcpkms.Config{Endpoint: ":443"}, "HOST:PORT"},
		"port 0":              {gcpkms.Config{Endpoint: "kms.internal:0"}, "HOST:PORT"},
		"a named port":        {gcpkms.Config{Endpoint: "kms.internal:https"}, "HOST:PORT"},
		"a path":              {gcpkms.Config{Endpoint: "kms.internal/x:443"}, "HOST:PORT"},
		"no email":            {gcpkms.Config{Impersonate: "keybroker"}, "email"},
		"a path for an email": {gcpkms.Config{Impersonate: "a@b/../c"}, "email"},
		"a header":            {gcpkms.Config{QuotaProject: "p\r\nx: y"}, "quota_project"},
		"negative":            {gcpkms.Config{Timeout: -1}, "timeout"},
	} {
		k, err := gcpkms.New(test.cfg)
		if (err == nil) != (test.word == "") || err != nil && !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s: %v", name, err)
		}
		if k != nil {
			for range 2 {
				if err := k.Close(); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

func TestValidKey(t *testing.T) {
	const good = "projects/p-1/locations/europe-west3/keyRings/Ring_1/cryptoKeys/tikv"
	for _, key := range []string{
		good, "projects/123456/locations/global/keyRings/r/cryptoKeys/k", "projects/example.com:p/locations/eu/keyRings/r/cryptoKeys/" + strings.Repeat("k", 63),
	} {
		if err := gcpkms.ValidKey(key); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	for name, test := range map[string]struct{ key, write string }{
		"empty":                {"", "write projects/PROJECT/"},
		"a bare name":          {"tikv", "write projects/PROJECT/"},
		"a version":            {good + "/cryptoKeyVersions/3", good},
		"a version's end":      {good + "/cryptoKeyVersions", good},
		"a slash behind":       {good + "/", "write " + good},
		"a slash before":       {"/" + good, "write " + good},
		"a space":              {" " + good + "\n", "write " + good},
		"a URL":                {"https://cloudkms.googleapis.com/v1/" + good, "write " + good},
		"a full resource name": {"//cloudkms.googleapis.com/" + good, "write " + good},
		"a Tink URI":           {"gcp-kms://" + good, "write " + good},
		"a key ring":           {"projects/p/locations/l/keyRings/r", "write projects/PROJECT/"},
		"other case":           {strings.Replace(good, "keyRings", "keyrings", 1), "write projects/PROJECT/"},
		"two slashes":          {strings.Replace(good, "/tikv", "//tikv", 1), "write projects/PROJECT/"},
		"upwards":              {strings.Replace(good, "Ring_1", "..", 1), "write projects/PROJECT/"},
		"a long key":           {good + strings.Repeat("k", 63), "write projects/PROJECT/"},
		"a line break":         {good + "\n" + good, "write projects/PROJECT/"},
	} {
		if err := gcpkms.ValidKey(test.key); err == nil || !strings.Contains(err.Error(), test.write) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var part = regexp.MustCompile(`^[A-Za-z0-9_.:-]+$`)

// What is a key has eight parts, of which four are words; all else is refused in
// a message of bounded length on one line.
func FuzzValidKey(f *testing.F) {
	const good = "projects/p/locations/l/keyRings/r/cryptoKeys/k"
	for _, seed := range []string{good, good + "/", good + "/cryptoKeyVersions/1", "/" + good, "gcp-kms://" + good, "", "///", "/cryptoKeyVersions/cryptoKeyVersions", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := gcpkms.ValidKey(key)
		if err != nil {
			if text := err.Error(); len(text) > 3000 || strings.Contains(text, "\n") {
				t.Errorf("%q", text)
			}
			return
		}
		parts := strings.Split(key, "/")
		if len(key) > 512 || len(parts) != 8 || parts[0] != "projects" || parts[2] != "locations" || parts[4] != "keyRings" || parts[6] != "cryptoKeys" {
			t.Fatalf("%q", key)
		}
		for _, p := range parts {
			if !part.MatchString(p) {
				t.Errorf("%q", key)
			}
		}
	})
}

// However a KMS is printed, no credential shows: it holds none but tokens.
func TestPrinted(t *testing.T) {
	b := newBench(t, nil)
	b.works()
	if text := fmt.Sprintf("%v %+v %#v", b.kms, b.kms, b.kms); strings.Contains(text, "eyJ") || strings.Contains(text, "PRIVATE KEY") {
		t.Error("a credential is printed")
	}
}
