package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/internal/config"
)

// A token with this in it is put where a fuzzed file says @SECRET@.
const tokenBody = "q7Zk2wXv9LtR4mYd"

// A file is refused with problems that stand in it, or it is a Config that keeps
// all its promises. Either way no token in it is repeated, wherever it stands.
func FuzzParse(f *testing.F) {
	if seeds, err := os.ReadDir("testdata/fuzz/FuzzParse"); err != nil || len(seeds) == 0 {
		f.Fatalf("FuzzParse has no seeds: %v", err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, tokenBody) {
			return // it is not known what it is part of
		}
		text = strings.ReplaceAll(text, "@SECRET@", "hvs.CAESI"+tokenBody)
		env := environment()
		if len(text)%2 == 1 {
			env.CredentialsDirectory = "/run/credentials/keybroker.service"
		}
		c, err := config.Parse("c.yaml", []byte(text), env)
		if err != nil {
			if c != nil {
				t.Error("there is a Config beside the error")
			}
			var problems config.Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("%T is no Problems", err)
			}
			checkPlaces(t, "c.yaml", text, problems)
			for _, p := range problems {
				if len(p.String()) > 4000 {
					t.Errorf("a problem of %d bytes: %.200s…", len(p.String()), p)
				}
			}
			if said := fmt.Sprintf("%v %+v", err, err); strings.Contains(said, tokenBody) {
				t.Errorf("a secret is repeated: %s", said)
			}
			return
		}
		checkConfig(t, c)
		checkPlaces(t, "c.yaml", text, c.Warnings)
		if said := fmt.Sprintf("%+v %s", c, dumpOf(c)); strings.Contains(said, tokenBody) {
			t.Errorf("a secret is kept: %s", said)
		}
	})
}

// dumpOf is what fmt does not follow pointers to.
func dumpOf(c *config.Config) string {
	var b strings.Builder
	for _, backend := range c.Backends {
		fmt.Fprintf(&b, "%+v %+v %+v %+v ", backend.File, backend.Vault, backend.AWSKMS, backend.GCPKMS)
		if a := backend.AWSKMS; a != nil {
			fmt.Fprintf(&b, "%+v %+v ", a.AssumeRole, a.WebIdentity)
		}
	}
	for _, k := range c.Keys {
		fmt.Fprintf(&b, "%+v ", k.Passthrough)
	}
	for _, client := range c.Clients {
		fmt.Fprintf(&b, "%+v ", client.Match.AWS)
	}
	fmt.Fprintf(&b, "%+v ", c.Cache.Persist)
	fmt.Fprintf(&b, "%+v %+v %+v %+v", c.Listen.GRPC, c.Listen.GRPCTCP, c.Listen.AWSKMS, c.Listen.Admin)
	return b.String()
}

// Each good and each bad file is a seed of its name, beside others.
func TestFilesAreSeeds(t *testing.T) {
	for prefix, pattern := range map[string]string{"bad": "testdata/bad/*.yaml", "good": "testdata/good/*.yaml", "example": examples + "/*.yaml"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, path := range paths {
			seed := filepath.Join("testdata/fuzz/FuzzParse", prefix+"-"+strings.TrimSuffix(filepath.Base(path), ".yaml"))
			if _, err := os.Stat(seed); err != nil {
				t.Errorf("%s is no seed of FuzzParse: %v", path, err)
			}
		}
	}
}
