package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

// store is a directory of wrapped keys, a file each, and what they hold.
type store struct {
	t    *testing.T
	dir  string
	keys []dataKey
}

func (s *store) path(i int) string {
	return filepath.Join(s.dir, fmt.Sprintf("%02d", i/1000), fmt.Sprintf("%05d.key", i))
}

// newStore has the broker generate n data keys and keeps them wrapped.
func newStore(t *testing.T, b *broker, key string, n int) *store {
	t.Helper()
	s := &store{t: t, dir: t.TempDir(), keys: make([]dataKey, n)}
	const width = 16
	var group sync.WaitGroup
	for w := range width {
		group.Go(func() {
			for i := w; i < n; i += width {
				r, err := b.keys().GenerateDataKey(t.Context(), &keybrokerv1.GenerateDataKeyRequest{KeyName: key})
				if err != nil {
					t.Error(err)
					return
				}
				s.keys[i] = dataKey{r.Plaintext, r.WrappedKey}
			}
		})
	}
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for i, k := range s.keys {
		if i%1000 == 0 {
			if err := os.MkdirAll(filepath.Dir(s.path(i)), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(s.path(i), k.wrapped, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// reread reads all wrapped keys again.
func (s *store) reread() (wrapped [][]byte, changed int) {
	s.t.Helper()
	for i, k := range s.keys {
		b, err := os.ReadFile(s.path(i))
		if err != nil {
			s.t.Fatal(err)
		}
		if !bytes.Equal(b, k.wrapped) {
			changed++
		}
		wrapped = append(wrapped, b)
	}
	return wrapped, changed
}

// opensAll holds that every file opens to the data key that it held at first.
func (s *store) opensAll(b *broker) {
	s.t.Helper()
	wrapped, _ := s.reread()
	const batch = 500
	for from := 0; from < len(wrapped); from += batch {
		req := &keybrokerv1.BatchUnwrapKeysRequest{}
		for _, w := range wrapped[from:min(from+batch, len(wrapped))] {
			req.Items = append(req.Items, &keybrokerv1.BatchUnwrapKeysItem{WrappedKey: w})
		}
		r, err := b.keys().BatchUnwrapKeys(s.t.Context(), req)
		if err != nil {
			s.t.Fatal(err)
		}
		for i, result := range r.Results {
			if codes.Code(result.GetError().GetCode()) != codes.OK || !bytes.Equal(result.Plaintext, s.keys[from+i].plaintext) {
				s.t.Fatalf("%s: %v", s.path(from+i), result.GetError())
			}
		}
	}
}

// whereUsed is what `keybroker where-used -o json` says, by provider and version.
func (s *store) whereUsed(b *broker) map[string][2]int {
	s.t.Helper()
	var said struct {
		MasterKeys []struct {
			Provider    string `json:"provider"`
			KeyVersion  string `json:"key_version"`
			WrappedKeys int    `json:"wrapped_keys"`
			OnlyThis    int    `json:"only_this"`
		} `json:"master_keys"`
	}
	if err := json.Unmarshal([]byte(b.mustCLI("where-used", "-o", "json", s.dir)), &said); err != nil {
		s.t.Fatal(err)
	}
	found := map[string][2]int{}
	for _, k := range said.MasterKeys {
		found[k.Provider+" "+k.KeyVersion] = [2]int{k.WrappedKeys, k.OnlyThis}
	}
	return found
}

// TestTenThousandMoved: 10,000 wrapped keys get a second master key, in another
// cloud. The run is interrupted and goes on; none is lost, and the KMSs are asked
// once for each intermediate key, not for each wrapped key. Then the first master
// key is deleted, and they get another in its place.
func TestTenThousandMoved(t *testing.T) {
	t.Parallel()
	const n, uses = 10_000, 500
	v, m := startVault(t), startMoto(t)
	vault, aws := newVault(t, v, "tikv"), newAWS(t, m)
	key := func(rs ...*remote) string {
		return fmt.Sprintf("  tikv: {recipients: %s, check_interval: 1h, intermediate: {max_uses: %d}}", listOf(rs...), uses)
	}
	b := newRemoteBroker(t, key(vault), vault, aws)
	b.start()
	s := newStore(t, b, "tikv", n)
	if got, want := s.whereUsed(b), [2]int{n, n}; len(got) != 1 || got["vault-transit 1"] != want {
		t.Fatalf("where-used: %v", got)
	}

	b.configure(backendsOf(vault, aws), key(vault, aws))
	b.mustCLI("reload")
	if said := b.mustCLI("rewrap", "--in-place", "--dry-run", s.dir); !strings.HasPrefix(said, fmt.Sprintf("would rewrap %d of %d ", n, n)) {
		t.Fatalf("dry run: %s", said)
	}
	if _, changed := s.reread(); changed != 0 {
		t.Fatalf("the dry run changed %d files", changed)
	}

	b.purgeByForce("tikv")
	vaultBefore, awsBefore := vault.asked(), aws.asked()
	began := time.Now()
	said := interrupted(t, b, s, n/3)
	_, changed := s.reread()
	t.Logf("interrupted after %d of %d: %s", changed, n, said)
	if changed < n/4 || changed == n {
		t.Errorf("%d files were changed when it was interrupted", changed)
	}
	s.opensAll(b)
	said = b.mustCLI("rewrap", "--in-place", s.dir)
	took := time.Since(began)
	if want := fmt.Sprintf("rewrapped %d of %d wrapped keys; %d are", n-changed, n, changed); !strings.HasPrefix(said, want) {
		t.Errorf("the second run says %q, want %q", said, want)
	}
	vaultAsked, awsAsked := vault.asked()-vaultBefore, aws.asked()-awsBefore
	t.Logf("%d wrapped keys in %v (%.0f a second), %d calls to Vault and %d to AWS", n, took.Round(time.Millisecond), n/took.Seconds(), vaultAsked, awsAsked)
	// Each intermediate key is opened once, and each new one wrapped and opened by both.
	if most := 4 * (n / uses); vaultAsked > 2*most || awsAsked > most {
		t.Errorf("more than a few calls for each of %d intermediate keys", n/uses)
	}
	if got, want := s.whereUsed(b), [2]int{n, 0}; len(got) != 2 || got["vault-transit 1"] != want || got["aws-kms "] != want {
		t.Errorf("where-used: %v", got)
	}
	b.purgeByForce("tikv")
	s.opensAll(b)

	// Vault's key is deleted, which where-used had said may be: all open by AWS.
	v.write("transit/keys/tikv/config", map[string]any{"deletion_allowed": true})
	_, err := v.root.Logical().Delete("transit/keys/tikv")
	v.must(err)
	b.purgeByForce("tikv")
	s.opensAll(b)

	// And a rewrap makes them whole again.
	v.newKey("tikv2", nil)
	successor := *vault
	successor.key = "tikv2"
	b.configure(backendsOf(vault, aws), key(&successor, aws))
	b.mustCLI("reload")
	some := filepath.Join(s.dir, "00")
	if said := b.mustCLI("rewrap", "--in-place", some); !strings.HasPrefix(said, "rewrapped 1000 of 1000 ") {
		t.Errorf("after the deletion: %s", said)
	}
	if said := b.mustCLI("inspect", s.path(0)); !strings.Contains(said, "/tikv2") {
		t.Errorf("not whole again:\n%s", said)
	}
	s.opensAll(b)
}

// interrupted rewraps all of s, sends SIGINT when about the first n files are
// done, and returns what the program said.
func interrupted(t *testing.T, b *broker, s *store, n int) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, brokerBinary(t), "rewrap", "--in-place", s.dir)
	cmd.Env = append(os.Environ(), "KEYBROKER_SOCKET="+b.socket)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a third is rewrapped", func() bool {
		now, err := os.ReadFile(s.path(n))
		return err == nil && !bytes.Equal(now, s.keys[n].wrapped)
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(out.String(), "interrupted; run it again to go on") {
		t.Errorf("exit code %d (%v): %s", code, err, &out)
	}
	return strings.TrimSpace(out.String())
}

// TestRotatedAndRetired: what an operator does with a rotated master key. The dry run
// foretells what the rewrap does, where-used shows it, and only then is the old
// version retired; nothing is lost by that, and nothing had to be purged.
func TestRotatedAndRetired(t *testing.T) {
	t.Parallel()
	const n = 20
	v := startVault(t)
	vault := newVault(t, v, "tikv")
	b := newRemoteBroker(t, "  tikv: {recipients: "+listOf(vault)+", check_interval: 1h}", vault)
	b.start()
	s := newStore(t, b, "tikv", n)
	whole := fmt.Sprintf("would rewrap 0 of %d ", n)
	if said := b.mustCLI("rewrap", "--in-place", "--dry-run", s.dir); !strings.HasPrefix(said, whole) {
		t.Fatalf("before the rotation: %s", said)
	}

	v.write("transit/keys/tikv/rotate", nil)
	if said := b.mustCLI("rewrap", "--in-place", "--dry-run", s.dir); !strings.HasPrefix(said, fmt.Sprintf("would rewrap %d of %d ", n, n)) {
		t.Errorf("the dry run after the rotation: %s", said)
	}
	if got, want := s.whereUsed(b), [2]int{n, n}; len(got) != 1 || got["vault-transit 1"] != want {
		t.Errorf("where-used before the rewrap: %v", got)
	}
	if said := b.mustCLI("rewrap", "--in-place", s.dir); !strings.HasPrefix(said, fmt.Sprintf("rewrapped %d of %d ", n, n)) {
		t.Errorf("the rewrap: %s", said)
	}
	if said := b.mustCLI("rewrap", "--in-place", "--dry-run", s.dir); !strings.HasPrefix(said, whole) {
		t.Errorf("the dry run after the rewrap: %s", said)
	}
	if got, want := s.whereUsed(b), [2]int{n, n}; len(got) != 1 || got["vault-transit 2"] != want {
		t.Fatalf("where-used after the rewrap: %v", got)
	}

	v.write("transit/keys/tikv/config", map[string]any{"min_decryption_version": 2, "min_encryption_version": 2})
	b.purgeByForce("tikv")
	s.opensAll(b)
	_, err := b.keys().UnwrapKey(t.Context(), &keybrokerv1.UnwrapKeyRequest{WrappedKey: s.keys[0].wrapped}) // as a backup has it
	wantReason(t, err, "KEK_DISABLED", false)
}

// TestThreeRecipientsFit: an envelope for three KMSs is far under what the AWS API
// takes.
func TestThreeRecipientsFit(t *testing.T) {
	t.Parallel()
	vault, aws, google := newRemotes(t)
	b := newRemoteBroker(t, "  tikv: {recipients: "+listOf(vault, aws, google)+"}", vault, aws, google)
	b.start()
	k := b.generate("tikv")
	t.Logf("a wrapped key with three recipients is %d bytes", len(k.wrapped))
	if len(k.wrapped) > 6144 {
		t.Errorf("%d bytes", len(k.wrapped))
	}
	if n := len(b.inspect(k)); n != 3 {
		t.Errorf("%d recipients", n)
	}
}
