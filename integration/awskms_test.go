package integration_test

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
	"github.com/keybroker/keybroker/backends/backendtest"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// deviations are the parts of the suite that moto cannot pass, with why, and what
// each of their failures looks like. They are skipped under these very names, and
// TestMotoDeviates runs them apart and holds that they fail in no other way.
var deviations = map[string]struct {
	why     string
	failure *regexp.Regexp
}{
	"other pairs do not open it": {
		"it binds the names and values of an encryption context without what divides them",
		regexp.MustCompile(`^a letter moved: Unwrap gives 32 bytes, <nil>$`),
	},
	"a flipped bit does not open": {
		"a ciphertext whose key id was damaged is answered AccessDeniedException",
		regexp.MustCompile(`^a flipped bit: class denied, want .* AccessDeniedException |^that was bit \d of byte \d of `),
	},
	"what was not wrapped does not open": {
		"a ciphertext that names no key of its own is answered AccessDeniedException",
		regexp.MustCompile(`^[a-z0-9K ]+: class denied, want .* AccessDeniedException `),
	},
	"another key's wrap does not open": {
		"a ciphertext of another key is answered AccessDeniedException, not IncorrectKeyException",
		regexp.MustCompile(`^the other's wrap under this one's name: class denied, want .* AccessDeniedException `),
	},
	"a disabled version does not open": {
		"a disabled key decrypts",
		regexp.MustCompile(`^disabled: Unwrap gives 32 bytes, <nil>$`),
	},
}

// unskipped has TestAWSConformance run what it otherwise skips.
const unskipped = "KEYBROKER_TEST_UNSKIPPED"

// TestAWSConformance runs the suite of all backends against moto.
func TestAWSConformance(t *testing.T) {
	for _, v := range awsEnvironment() {
		name, value, _ := strings.Cut(v, "=")
		t.Setenv(name, value)
	}
	m := startMoto(t)
	skipped := map[string]bool{}
	backendtest.Run(t, func(t *testing.T) backendtest.Fixture {
		_, name, _ := strings.Cut(t.Name(), "/")
		if d, ok := deviations[strings.ReplaceAll(name, "_", " ")]; ok && os.Getenv(unskipped) == "" {
			skipped[strings.ReplaceAll(name, "_", " ")] = true
			t.Skip("moto is not KMS here: " + d.why)
		}
		f := newFront(t, "http://"+m.address)
		l := newLink(t, f.address)
		k, err := awskms.New(awskms.Config{Region: awsRegion, Endpoint: "https://" + l.address(), CAFile: f.caFile})
		if err != nil {
			t.Fatal(err)
		}
		key, other := m.newKey(), m.newKey()
		missing := fmt.Sprintf("arn:aws:kms:%s:123456789012:key/11111111-2222-3333-4444-555555555555", awsRegion)
		set := func(operation string) func(*testing.T, backends.Wrapped) {
			_, id, _ := strings.Cut(key, "/") // moto finds a key to disable by nothing else
			return func(*testing.T, backends.Wrapped) { m.call(operation, map[string]any{"KeyId": id}, nil) }
		}
		return backendtest.Fixture{
			KMS: k, Provider: awskms.Provider, Key: key, Other: other,
			Missing: missing, MissingReference: missing, MaxFlips: 200,
			Rotate:  func(*testing.T) { m.call("RotateKeyOnDemand", map[string]any{"KeyId": key}, nil) },
			Disable: set("DisableKey"), Enable: set("EnableKey"),
			Down: func(*testing.T) { l.refuse() }, Up: func(*testing.T) { l.accept() },
			Requests: func() int { return len(f.asked()) },
		}
	})
	for name := range deviations {
		if os.Getenv(unskipped) == "" && !skipped[name] {
			t.Errorf("the suite has no part %q any more", name)
		}
	}
}

var reported = regexp.MustCompile(`^ +\w+\.go:\d+: (.*)$`)

// TestMotoDeviates runs what TestAWSConformance skips, in a process of its own:
// each part must still fail, or it need not be skipped, and in the way that is
// known, or the skip would hide something else.
func TestMotoDeviates(t *testing.T) {
	t.Parallel()
	startMoto(t) // or skip
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, deviation := range deviations {
		t.Run(name, func(t *testing.T) {
			pattern := "^TestAWSConformance$/^" + regexp.QuoteMeta(strings.ReplaceAll(name, " ", "_")) + "$"
			cmd := exec.CommandContext(t.Context(), self, "-test.run="+pattern, "-test.timeout=1m")
			cmd.Env = append(os.Environ(), unskipped+"=1")
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "--- FAIL: TestAWSConformance/"+strings.ReplaceAll(name, " ", "_")+" ") {
				t.Fatalf("it need not be skipped: %v\n%s", err, out)
			}
			seen := false
			for line := range strings.Lines(string(out)) {
				said := reported.FindStringSubmatch(strings.TrimRight(line, "\n"))
				switch {
				case said == nil:
				case deviation.failure.MatchString(said[1]):
					seen = true
				default:
					t.Errorf("another failure is skipped with it: %s", line)
				}
			}
			if !seen {
				t.Errorf("it fails, and says nothing that is known:\n%s", out)
			}
		})
	}
}

// TestAWSBroker goes the main way with a key in moto, by TLS.
func TestAWSBroker(t *testing.T) {
	t.Parallel()
	r := newAWS(t, startMoto(t))
	b := newBroker(t, r.config, fmt.Sprintf("  main: {recipients: [%s], context: {cluster: prod-1}}", r.recipient()))
	b.env = awsEnvironment()
	b.start()
	k := b.generate("main")
	b.mustUnwrap(k, fromCache)
	b.purge()
	b.mustUnwrap(k, fromBackend)
	out, err := b.cli(k.wrapped, "unwrap", "--raw", "--context", "test="+t.Name())
	if err != nil || out != string(k.plaintext) {
		t.Errorf("the command line opens it to something else: %v", err)
	}
	if out := b.mustCLI("keys"); !strings.Contains(out, "ready") || !strings.Contains(out, r.key) {
		t.Errorf("keys: %s", out)
	}
	_, err = b.keys().UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: k.wrapped, Context: map[string]string{"test": "another"}})
	wantReason(t, err, "INVALID_ENVELOPE", false)
}
