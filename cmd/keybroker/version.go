package main

import (
	"crypto/fips140"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is set by the linker (Makefile).
var version = ""

// versionText is the program's version.
func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// revision is the commit that the program was built from, if the build knew.
func revision() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}

// fipsMode tells whether Go's cryptographic module is in FIPS 140-3 mode, and
// which version of it.
func fipsMode() string {
	if !fips140.Enabled() {
		return "off"
	}
	return "on, module " + fips140.Version()
}

func newVersionCommand(env *Env, opts *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version  string `json:"version"`
				Revision string `json:"revision,omitempty"`
				Go       string `json:"go"`
				Platform string `json:"platform"`
				FIPS140  string `json:"fips140"`
			}{versionText(), revision(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, fipsMode()}
			if opts.output == outputJSON {
				return env.printJSON(v)
			}
			_, err := fmt.Fprintf(env.Stdout, "keybroker %s (%s, %s, FIPS 140-3 mode %s)\n", v.Version, v.Go, v.Platform, v.FIPS140)
			return err
		},
	}
}
