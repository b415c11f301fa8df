// Command vaultserver is a real Vault server for tests: the core, Transit, the
// AppRole and Token auth methods and the file audit device of
// github.com/hashicorp/vault, over plain HTTP on loopback.
//
// It initializes and unseals itself, and prints one line of JSON once it serves:
// {"address": …, "root_token": …, "unseal_key": …}. Its data is in the directory
// given, so that it can be killed and started again as the same Vault. Seal it
// and unseal it through its own API.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/vault"
)

func main() {
	dir := flag.String("dir", "", "directory of its data; made if it is not there")
	listen := flag.String("listen", "127.0.0.1:0", "address to serve on")
	verbose := flag.Bool("v", false, "log to standard error")
	flag.Parse()
	if err := run(*dir, *listen, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "vaultserver:", err)
		os.Exit(1)
	}
}

// keys is what the initialization gave, kept beside the data.
type keys struct {
	Address   string `json:"address"`
	RootToken string `json:"root_token"`
	UnsealKey []byte `json:"unseal_key"` // base64, as sys/unseal takes it
}

func run(dir, listen string, verbose bool) error {
	if dir == "" {
		return errors.New("-dir is required")
	}
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return err
	}
	level := hclog.Off
	if verbose {
		level = hclog.Info
	}
	log := hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: level})
	storage, err := file.NewFileBackend(map[string]string{"path": filepath.Join(dir, "data")}, log)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	address := "http://" + listener.Addr().String()
	core, err := vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		DisableMlock:       true,
		BuiltinRegistry:    builtins{},
		LogicalBackends:    map[string]logical.Factory{"transit": transit.Factory},
		CredentialBackends: map[string]logical.Factory{"approle": approle.Factory},
		AuditBackends:      map[string]audit.Factory{"file": audit.NewFileBackend},
		Logger:             log,
		RedirectAddr:       address,
	})
	if err != nil {
		return err
	}
	k, err := unseal(core, filepath.Join(dir, "keys.json"))
	if err != nil {
		return err
	}
	k.Address = address
	server := &http.Server{
		Handler:           vaulthttp.Handler.Handler(&vault.HandlerProperties{Core: core, ListenerConfig: &configutil.Listener{}}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	if err := json.NewEncoder(os.Stdout).Encode(k); err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case <-stop:
		return errors.Join(server.Close(), core.Shutdown())
	case err := <-ended:
		return err
	}
}

// unseal opens the barrier, after making it on the first start.
func unseal(core *vault.Core, path string) (k keys, err error) {
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		made, err := core.Initialize(context.Background(), &vault.InitParams{
			BarrierConfig:  &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
			RecoveryConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1},
		})
		if err != nil {
			return k, fmt.Errorf("initialize: %w", err)
		}
		k = keys{RootToken: made.RootToken, UnsealKey: made.SecretShares[0]}
		if text, err = json.Marshal(k); err != nil {
			return k, err
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return k, err
		}
	case err != nil:
		return k, err
	default:
		if err := json.Unmarshal(text, &k); err != nil {
			return k, fmt.Errorf("%s: %w", path, err)
		}
	}
	open, err := core.Unseal(k.UnsealKey)
	if err == nil && !open {
		err = fmt.Errorf("still sealed with the key %s…", base64.StdEncoding.EncodeToString(k.UnsealKey)[:4])
	}
	return k, err
}

// builtins is the registry of plugins, which for Transit and AppRole come as
// factories.
type builtins struct{}

func (builtins) Contains(string, consts.PluginType) bool { return true }
func (builtins) Get(string, consts.PluginType) (func() (any, error), bool) {
	return nil, true
}
func (builtins) Keys(consts.PluginType) []string { return []string{"transit", "approle"} }
func (builtins) DeprecationStatus(string, consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, true
}
func (builtins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
