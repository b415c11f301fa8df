//go:build unix

package config_test

import (
	"strings"
	"testing"
)

// persistFiles is a configuration with a sealed file.
const persistFiles = `version: 1
listen:
  grpc: {socket: /run/kb.sock}
backends:
  google: {type: gcp-kms}
keys:
  tikv: {recipients: [{backend: google, key: projects/p-1/locations/global/keyRings/r/cryptoKeys/k}]}
clients:
  tikv: {match: {unix: {uid: 0}}}
audit: {path: audit.jsonl}
cache:
  persist:
    path: cache.sealed
    key_file: cache-key
`

func TestLoadPersist(t *testing.T) {
	const (
		at     = "DIR/config.yaml:14:15: cache.persist.key_file: found "
		beside = "well\n" + at + "a key on the file system of what it seals; want a systemd credential (LoadCredentialEncrypted=), a file in memory, or tpm in its place: whoever takes this disk has both"
		noTPM  = "; want a TPM's device, such as /dev/tpmrm0: as it is, the cache is kept in no file"
	)
	tpm := func(path string) func(*loading) {
		return func(l *loading) {
			l.write("config.yaml", strings.Replace(persistFiles, "key_file: cache-key", "tpm: "+path, 1), 0o644)
		}
	}
	for _, test := range []struct {
		name   string
		change func(l *loading)
		want   string
	}{
		{"a key beside it", func(*loading) {}, beside},
		{"a key that is not random enough", func(l *loading) { l.write("cache-key", strings.Repeat("k", 31), 0o600) },
			at + "DIR/cache-key, of 31 bytes; want 32 to 1024 random bytes, as `head -c 32 /dev/urandom` gives them"},
		{"a key too long", func(l *loading) { l.write("cache-key", strings.Repeat("k", 1025), 0o600) },
			at + "DIR/cache-key, of 1025 bytes; want 32 to 1024 random bytes, as `head -c 32 /dev/urandom` gives them"},
		{"a key that others read", func(l *loading) { l.chmod("cache-key", 0o644) },
			at + "DIR/cache-key, of mode 0644 and uid UID: others may use it; want mode 0600 (chmod go= DIR/cache-key)"},
		{"no key", func(l *loading) { l.remove("cache-key") },
			at + "a path from the configuration's directory that leads to no file; want a file that the broker's user may read, and its path here; never the secret itself"},
		{"no directory", func(l *loading) {
			l.write("config.yaml", strings.Replace(persistFiles, "path: cache.sealed", "path: lib/cache.sealed", 1), 0o644)
		}, "well\nDIR/config.yaml:13:11: cache.persist.path: found no directory DIR/lib; want it made before the broker starts, by its unit or by install -d -m 0700 -o USER -g GROUP DIR/lib"},
		{"a TPM", tpm("/dev/null"), "well"},
		{"no TPM", tpm("tpm"), "well\nDIR/config.yaml:14:10: cache.persist.tpm: found DIR/tpm: no such file" + noTPM},
		{"a TPM that is a file", tpm("cache-key"), "well\nDIR/config.yaml:14:10: cache.persist.tpm: found DIR/cache-key, which is a file" + noTPM},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLoading(t, false)
			l.write("config.yaml", persistFiles, 0o644)
			l.write("cache-key", strings.Repeat("k", 32), 0o600)
			test.change(l)
			if got := l.load("config.yaml"); got != test.want {
				t.Errorf("%s\nwant: %s", got, test.want)
			}
		})
	}
}
