package config_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/internal/config"
)

// loadEnv makes this test binary a process that loads the configuration of this
// path and prints what comes of it: whoever else it is run as then does.
const loadEnv = "KEYBROKER_TEST_LOAD"

func TestMain(m *testing.M) {
	if path := os.Getenv(loadEnv); path != "" {
		fmt.Print(load(path))
		return
	}
	os.Exit(m.Run())
}

// load is what comes of loading a configuration: its problems, or
// "well" and its warnings.
func load(path string) string {
	c, err := config.Load(path)
	switch {
	case err != nil && c != nil:
		return "a Config beside the error " + err.Error()
	case err != nil:
		return err.Error()
	default:
		return strings.TrimSuffix("well\n"+c.Warnings.Error(), "\n")
	}
}
