package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keybroker/keybroker/"

// arrows are the imports of ours that each package may have; dependencies point
// inward (CONTRIBUTING.md). cmd/keybroker may import all of them.
func arrows() map[string][]string {
	return map[string][]string{
		"audit":                   {},
		"audit/anchor":            {"audit", "backends", "broker/envelope"},
		"audit/otlp":              {"audit"},
		"audit/verify":            {},
		"backends":                {},
		"backends/awskms":         {"backends"},
		"backends/backendtest":    {"backends"},
		"backends/file":           {"backends"},
		"backends/file/backup":    {"backends/file"},
		"backends/gcpkms":         {"backends"},
		"backends/gcpkms/gcptest": {}, // a server for tests, also those of others
		"backends/vault":          {"backends"},
		"broker":                  {"audit", "backends", "broker/envelope", "broker/peer", "broker/policy", "cache", "internal/handover", "internal/persist", "internal/secret"},
		"broker/admin":            {},
		"broker/awsapi":           {"broker", "broker/awsapi/sigv4", "broker/peer", "internal/secret"},
		"broker/awsapi/sigv4":     {},
		"broker/envelope":         {"backends"},
		"broker/grpcapi":          {"broker", "broker/peer", "cache", "proto/keybroker/v1"},
		"broker/peer":             {},
		"broker/policy":           {"broker/peer"},
		"cache":                   {},
		"internal/bootclock":      {},
		"internal/config":         {"broker/policy"},
		"internal/doctor":         {"internal/secret"},
		"internal/handover":       {"internal/secret"},
		"internal/persist":        {"internal/handover"},
		"internal/secret":         {},
		"internal/telemetry":      {"broker"},
		"internal/tikv":           {"internal/secret"},
		"internal/tpmseal":        {},
		"proto/keybroker/v1":      {},
	}
}

// outward are modules that only some packages may reach, however far away: no SDK
// and no wire protocol in the core.
func outward() map[string][]string {
	return map[string][]string{
		// Cloud KMS is asked by gRPC.
		// The generated code of OTLP's services has it, too, though logs go over HTTP.
		"google.golang.org/grpc": {"audit/otlp", "broker/grpcapi", "proto/keybroker/v1", "backends/gcpkms", "backends/gcpkms/gcptest", "cmd/keybroker"},
		// client_golang's, too, and key.dict has one message of it.
		"google.golang.org/protobuf": {"broker/grpcapi", "proto/keybroker/v1", "backends/gcpkms", "backends/gcpkms/gcptest", "cmd/keybroker", "internal/telemetry", "internal/tikv", "broker/admin", "audit/otlp"},
		// Vault and AWS KMS are asked by it, and Google for tokens; gRPC has it, too.
		"net/http":                            {"audit/anchor", "broker/grpcapi", "broker/admin", "broker/awsapi", "backends/vault", "backends/awskms", "backends/gcpkms", "backends/gcpkms/gcptest", "internal/telemetry", "proto/keybroker/v1", "audit/otlp", "cmd/keybroker"},
		"go.opentelemetry.io/otel/sdk":        {"audit/otlp", "cmd/keybroker"},
		"github.com/aws":                      {"backends/awskms", "cmd/keybroker"},
		"cloud.google.com/go":                 {"backends/gcpkms", "backends/gcpkms/gcptest", "cmd/keybroker"},
		"google.golang.org/api":               {"backends/gcpkms", "backends/gcpkms/gcptest", "cmd/keybroker"}, // kmspb's package has the client, too
		"github.com/hashicorp/vault/api":      {"backends/vault", "cmd/keybroker"},
		"filippo.io/age":                      {"backends/file/backup", "cmd/keybroker"},
		"github.com/prometheus/client_golang": {"broker/admin", "internal/telemetry", "cmd/keybroker"},
		"go.yaml.in/yaml/v4":                  {"internal/config", "cmd/keybroker"},
		"github.com/pelletier/go-toml":        {"internal/tikv", "cmd/keybroker"},
		"github.com/spf13/cobra":              {"cmd/keybroker"},
		"github.com/google/go-tpm":            {"internal/tpmseal", "cmd/keybroker"},
		"testing":                             {"backends/backendtest", "backends/gcpkms/gcptest"},
	}
}

func TestArrowsPointInward(t *testing.T) {
	imports := list(t, "{{.ImportPath}} {{join .Imports \" \"}}", module+"...")
	allowed := arrows()
	for pkg, imported := range imports {
		if pkg == "cmd/keybroker" {
			continue
		}
		may, known := allowed[pkg]
		if !known {
			t.Errorf("%s is in no table: say what it may import", pkg)
			continue
		}
		for _, i := range imported {
			ours, ok := strings.CutPrefix(i, module)
			if ok && !slices.Contains(may, ours) {
				t.Errorf("%s imports %s", pkg, ours)
			}
		}
	}
	for pkg := range allowed {
		if _, there := imports[pkg]; !there {
			t.Errorf("%s is in the table but nowhere else", pkg)
		}
	}
}

func TestWhatReachesOutward(t *testing.T) {
	deps := list(t, "{{.ImportPath}} {{join .Deps \" \"}}", module+"...")
	for outside, may := range outward() {
		for pkg, reached := range deps {
			if slices.Contains(may, pkg) {
				continue
			}
			if slices.ContainsFunc(reached, func(d string) bool { return d == outside || strings.HasPrefix(d, outside+"/") }) {
				t.Errorf("%s depends on %s", pkg, outside)
			}
		}
	}
}

// list runs go list and returns what it says of each package of ours, by its path
// in the module.
func list(t *testing.T, format, pattern string) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", format, pattern).Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	found := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		found[strings.TrimPrefix(fields[0], module)] = fields[1:]
	}
	return found
}
