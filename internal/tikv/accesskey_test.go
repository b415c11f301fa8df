package tikv_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/internal/tikv"
)

func TestAccessKey(t *testing.T) {
	random := bytes.Repeat([]byte{0xff}, 44)
	k, err := tikv.NewAccessKey(bytes.NewReader(random))
	if err != nil {
		t.Fatal(err)
	}
	if want := "KB" + strings.Repeat("7", 18); k.ID != want {
		t.Errorf("ID = %s, want %s", k.ID, want)
	}
	if want := strings.Repeat("_", 42) + "8"; string(k.Secret.Bytes()) != want {
		t.Errorf("Secret = %s, want %s", k.Secret.Bytes(), want)
	}
	if text := fmt.Sprintf("%v %+v %#v", k, k, k); strings.Contains(text, "___") {
		t.Errorf("it prints: %s", text)
	}
	if _, err := tikv.NewAccessKey(bytes.NewReader(random[:43])); err == nil {
		t.Error("made of too little")
	}
	lines := tikv.ClientLines("a", k.ID, "/a b/c.secret", "1000", "tikv")
	if !strings.Contains(lines, "uid: 1000}") || !slices.Contains(strings.Fields(lines), `"/a`) {
		t.Error(lines)
	}
}
