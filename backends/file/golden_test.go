package file_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/file"
)

// What was written and wrapped once opens for ever. testdata/golden/make.py made
// the keyring and the wraps without this package; they are never made again.
func TestGolden(t *testing.T) {
	dir := newKeyring(t, "other")
	// Import, not Create, so that the file is the golden one to the byte.
	golden := newKeyring(t) // not yet there
	content := readFile(t, "testdata/golden/main.keyring")
	infos, err := file.Import(golden, content)
	if err != nil || len(infos) != 1 || len(infos[0].Versions) != 3 || infos[0].Versions[1].State != file.Retired {
		t.Fatalf("Import: %+v, %v", infos, err)
	}
	if !bytes.Equal(readFile(t, golden+"/main.keyring"), content) {
		t.Error("the keyring was not kept to the byte")
	}
	if _, err := file.Import(dir, content); err == nil {
		t.Error("a key of another keyring was imported")
	}

	var wraps []struct {
		Version        string
		Reference      string
		AssociatedData string `json:"associated_data"`
		Plaintext      string
		Ciphertext     string
	}
	if err := json.Unmarshal(readFile(t, "testdata/golden/wraps.json"), &wraps); err != nil || len(wraps) == 0 {
		t.Fatalf("%d wraps, %v", len(wraps), err)
	}
	k := newKMS(t, golden)
	open := func(i int) ([]byte, error) {
		w := wraps[i]
		return k.Unwrap(t.Context(), backends.UnwrapRequest{
			Key: "main", Reference: w.Reference, Version: w.Version, Binding: backends.BindingAAD,
			Ciphertext: unhex(t, w.Ciphertext), AssociatedData: unhex(t, w.AssociatedData),
		})
	}
	opened := 0
	for i, w := range wraps {
		got, err := open(i)
		if w.Version == "2" {
			if backends.ClassOf(err) != backends.Disabled {
				t.Errorf("wrap %d is of a retired version: %x, %v", i, got, err)
			}
			if _, err := file.Activate(golden, "main", 2); err != nil {
				t.Fatal(err)
			}
			got, err = open(i)
		}
		if err != nil || hex.EncodeToString(got) != w.Plaintext {
			t.Errorf("wrap %d: %x, %v", i, got, err)
		}
		opened++
	}
	if opened != 4 {
		t.Errorf("%d wraps", opened)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
