package integration_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keybroker/keybroker/internal/tikv"
)

// awsDoor is a broker that serves AWS KMS's protocol on loopback.
type awsDoor struct {
	*broker
	address string
	// options are more members of listen.aws_kms.
	options string
}

// The access keys that every awsDoor has: of a store that may do everything, of a
// client that may list keys and use none, and of another user, with the store's secret.
const (
	storeAccessKey     = "KBSTORE00000000001"
	storeSecret        = "a-secret-of-the-store-0123456789abcdef"
	outsiderAccessKey  = "KBOUTSIDER00000001"
	outsiderSecret     = "a-secret-of-the-outsider-0123456789abc"
	neighbourAccessKey = "KBNEIGHBOUR0000001"
	doorRegion         = "us-east-1"
)

// newAWSDoor prepares a broker with the given backends and keys sections.
func newAWSDoor(t *testing.T, backends, keys string) *awsDoor {
	t.Helper()
	d := &awsDoor{broker: newBroker(t, backends, keys), address: doorAddress(t)}
	d.env = awsEnvironment()
	for file, content := range map[string]string{"store.secret": storeSecret, "outsider.secret": outsiderSecret} {
		if err := os.WriteFile(filepath.Join(d.dir, file), []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.configure(backends, keys)
	return d
}

// doorPort is the last port that doorAddress has given out.
var doorPort atomic.Int64

// doorAddress is one that no broker has, and that no connection takes while the broker
// is down: it is below those that Linux gives out by itself.
func doorAddress(t *testing.T) string {
	t.Helper()
	const first, many = 20_000, 12_000
	doorPort.CompareAndSwap(0, int64(os.Getpid()))
	for range many {
		address := net.JoinHostPort("127.0.0.1", strconv.FormatInt(first+doorPort.Add(1)%many, 10))
		if l, err := net.Listen("tcp", address); err == nil {
			_ = l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// newFileDoor prepares one with its master keys in a file.
func newFileDoor(t *testing.T, keys ...string) *awsDoor {
	t.Helper()
	backends, _ := fileBackend(t)
	return newAWSDoor(t, backends, localKeys(keys...))
}

// localKeys is a keys section, of keys that fileBackend's master key wraps.
func localKeys(names ...string) string {
	var b strings.Builder
	for _, name := range names {
		fmt.Fprintf(&b, "  %s: {recipients: [{backend: local, key: main}]}\n", name)
	}
	return b.String()
}

// configure writes the configuration anew.
func (d *awsDoor) configure(backends, keys string) {
	d.t.Helper()
	d.extra = fmt.Sprintf("  aws_kms: {address: %q%s}\n", d.address, d.options)
	d.broker.configure(backends, keys)
	path := filepath.Join(d.dir, "config.yaml")
	b, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	const clients = "\nclients:\n"
	text := strings.Replace(string(b), clients, clients+fmt.Sprintf(`  store:
    match: {aws: {access_key_id: %s, secret_key_file: store.secret, uid: %d}}
    allow: [{keys: ["*"], operations: ["*"]}]
  outsider:
    match: {aws: {access_key_id: %[3]s, secret_key_file: outsider.secret, uid: %[2]d}}
    allow: [{keys: ["*"], operations: [list]}]
  neighbour:
    match: {aws: {access_key_id: %[4]s, secret_key_file: store.secret, uid: %[5]d}}
    allow: [{keys: ["*"], operations: ["*"]}]
`, storeAccessKey, os.Getuid(), outsiderAccessKey, neighbourAccessKey, os.Getuid()+1), 1)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// masterKey is a master-key of a store that asks this broker.
func (d *awsDoor) masterKey(key string) masterKey {
	return masterKey{
		kind: kindKMS, keyID: key, endpoint: "http://" + d.address, region: doorRegion,
		accessKey: storeAccessKey, secret: storeSecret,
	}
}

// fileKey makes a master-key in a file.
func fileKey(t *testing.T) masterKey {
	t.Helper()
	path := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(path, []byte(strings.Repeat("0123456789abcdef", tikv.KeySize*2/16)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return masterKey{kind: kindFile, path: path}
}
