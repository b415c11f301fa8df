package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// vaultServer is a real Vault server in a process of its own, with Transit and
// AppRole enabled and a role for the broker. Its data outlives a stop.
type vaultServer struct {
	t         *testing.T
	dir       string
	listen    string
	Address   string `json:"address"`
	RootToken string `json:"root_token"`
	UnsealKey []byte `json:"unseal_key"`

	root   *api.Client
	cmd    *exec.Cmd
	exited chan struct{}
	stderr *logs
}

// brokerPolicy is all that the broker needs (docs/vault.md).
const brokerPolicy = `
path "transit/encrypt/*" { capabilities = ["update"] }
path "transit/decrypt/*" { capabilities = ["update"] }
path "transit/keys/*"    { capabilities = ["read"] }
`

// startVault starts a Vault server for the test, ready for the broker.
func startVault(t *testing.T) *vaultServer {
	t.Helper()
	v := &vaultServer{t: t, dir: t.TempDir(), listen: "127.0.0.1:0", stderr: &logs{}}
	v.start()
	t.Cleanup(v.stop)
	v.must(v.root.Sys().Mount("transit", &api.MountInput{Type: "transit"}))
	v.must(v.root.Sys().EnableAuthWithOptions("approle", &api.EnableAuthOptions{Type: "approle"}))
	v.must(v.root.Sys().PutPolicy("keybroker", brokerPolicy))
	v.write("auth/approle/role/keybroker", map[string]any{"token_policies": "keybroker", "token_ttl": "1h"})
	return v
}

// start runs the server, at the address of the last time if there was one.
func (v *vaultServer) start() {
	v.t.Helper()
	path := os.Getenv("KEYBROKER_VAULTSERVER")
	if path == "" {
		v.t.Fatal("KEYBROKER_VAULTSERVER does not name the Vault server; run `make integration`")
	}
	v.cmd = exec.Command(path, "-dir", filepath.Join(v.dir, "vault"), "-listen", v.listen)
	v.cmd.Stderr = v.stderr
	out, err := v.cmd.StdoutPipe()
	v.must(err)
	v.must(v.cmd.Start())
	v.exited = make(chan struct{})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		v.t.Fatalf("the Vault server did not start: %v\n%s", err, v.stderr)
	}
	go func() {
		_ = v.cmd.Wait()
		close(v.exited)
	}()
	v.must(json.Unmarshal(line, v))
	v.listen = v.Address[len("http://"):]
	cfg := api.DefaultConfig()
	cfg.Address, cfg.MaxRetries = v.Address, 0
	v.root, err = api.NewClient(cfg)
	v.must(err)
	v.root.SetToken(v.RootToken)
	v.ready()
}

// ready waits until the server serves: after an unseal it takes a moment.
func (v *vaultServer) ready() {
	v.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		h, err := v.root.Sys().Health()
		if err == nil && h.Initialized && !h.Sealed && !h.Standby {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("the Vault server is not ready: %v\n%s", err, v.stderr)
		}
	}
}

// stop ends the server without warning, as a crash would.
func (v *vaultServer) stop() {
	select {
	case <-v.exited:
		return
	default:
	}
	_ = v.cmd.Process.Signal(syscall.SIGKILL)
	<-v.exited
}

func (v *vaultServer) seal() { v.t.Helper(); v.must(v.root.Sys().Seal()) }

func (v *vaultServer) unseal() {
	v.t.Helper()
	_, err := v.root.Sys().Unseal(base64.StdEncoding.EncodeToString(v.UnsealKey))
	v.must(err)
	v.ready()
}

func (v *vaultServer) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatalf("vault: %v\n%s", err, v.stderr)
	}
}

func (v *vaultServer) write(path string, data map[string]any) *api.Secret {
	v.t.Helper()
	s, err := v.root.Logical().WriteWithContext(context.Background(), path, data)
	v.must(err)
	return s
}

func (v *vaultServer) read(path string) map[string]any {
	v.t.Helper()
	s, err := v.root.Logical().ReadWithContext(context.Background(), path)
	v.must(err)
	if s == nil {
		v.t.Fatalf("vault: there is nothing at %s", path)
	}
	return s.Data
}

// newKey makes a Transit key.
func (v *vaultServer) newKey(name string, options map[string]any) {
	v.t.Helper()
	v.write("transit/keys/"+name, options)
}

func (v *vaultServer) rotate(name string) {
	v.t.Helper()
	v.write("transit/keys/"+name+"/rotate", nil)
}

// minDecryption is the oldest version of a key that Vault decrypts with.
func (v *vaultServer) minDecryption(name string, version int) {
	v.t.Helper()
	v.write("transit/keys/"+name+"/config", map[string]any{"min_decryption_version": version})
}

// appRole writes the role's ids into files and returns their paths.
func (v *vaultServer) appRole() (roleIDFile, secretIDFile string) {
	v.t.Helper()
	id := v.read("auth/approle/role/keybroker/role-id")["role_id"].(string)
	secret := v.write("auth/approle/role/keybroker/secret-id", nil).Data["secret_id"].(string)
	return v.file("role-id", id), v.file("secret-id", secret)
}

// token writes a token with the broker's policy into a file.
func (v *vaultServer) token(file string, ttl string) (path, token string) {
	v.t.Helper()
	s, err := v.root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"keybroker"}, TTL: ttl, NoParent: true})
	v.must(err)
	return v.file(file, s.Auth.ClientToken), s.Auth.ClientToken
}

func (v *vaultServer) file(name, content string) string {
	v.t.Helper()
	path := filepath.Join(v.dir, name)
	v.must(os.WriteFile(path, []byte(content+"\n"), 0o600))
	return path
}

// revokeBrokerTokens takes every token away that the broker's role gave.
func (v *vaultServer) revokeBrokerTokens() {
	v.t.Helper()
	_, err := v.root.Logical().Write("sys/leases/revoke-prefix/auth/approle/login", nil)
	v.must(err)
}

// backend is the broker's configuration of this Vault, by AppRole.
func (v *vaultServer) backend(name string) string {
	v.t.Helper()
	roleID, secretID := v.appRole()
	return fmt.Sprintf("  %s: {type: vault, address: %q, timeout: 2s, auth: {method: approle, role_id_file: %s, secret_id_file: %s}}",
		name, v.Address, roleID, secretID)
}

// contains tells whether b holds secret, raw, in hex or in base64 of either alphabet,
// with padding or without.
func contains(b, secret []byte) bool {
	return bytes.Contains(b, secret) ||
		bytes.Contains(bytes.ToLower(b), fmt.Appendf(nil, "%x", secret)) ||
		bytes.Contains(b, []byte(base64.RawStdEncoding.EncodeToString(secret))) ||
		bytes.Contains(b, []byte(base64.RawURLEncoding.EncodeToString(secret)))
}
