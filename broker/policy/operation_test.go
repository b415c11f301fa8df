package policy_test

import (
	"slices"
	"testing"

	"github.com/keybroker/keybroker/broker/policy"
)

// The names are the contract: they stand in configurations and audit logs.
func TestOperationNames(t *testing.T) {
	names := []string{"generate", "wrap", "unwrap", "rewrap", "inspect", "list"}
	var got []string
	for _, o := range policy.Operations() {
		got = append(got, o.String())
		if parsed, ok := policy.ParseOperation(o.String()); !ok || parsed != o {
			t.Errorf("%v is parsed as %v, %v", o, parsed, ok)
		}
	}
	if !slices.Equal(got, names) {
		t.Errorf("the operations are %q, want %q", got, names)
	}
	if o, ok := policy.ParseOperation("*"); !ok || o != policy.Any || o.String() != "*" {
		t.Errorf("* is %v, %v", o, ok)
	}
	for _, bad := range []string{"", "Unwrap", " unwrap", "unwrap ", "unwrap,wrap", "decrypt", "purge", "Operation(0)", "Operation(8)", "**"} {
		if o, ok := policy.ParseOperation(bad); ok || o != 0 {
			t.Errorf("%q is %v, %v", bad, o, ok)
		}
	}
}

func TestRightNames(t *testing.T) {
	names := []string{"status", "purge", "reload", "tail", "drill"}
	var got []string
	for _, r := range policy.Rights() {
		got = append(got, r.String())
		if parsed, ok := policy.ParseRight(r.String()); !ok || parsed != r {
			t.Errorf("%v is parsed as %v, %v", r, parsed, ok)
		}
	}
	if !slices.Equal(got, names) {
		t.Errorf("the rights are %q, want %q", got, names)
	}
	if r, ok := policy.ParseRight("*"); !ok || r != policy.AnyRight || r.String() != "*" {
		t.Errorf("* is %v, %v", r, ok)
	}
	for _, bad := range []string{"", "Status", "list", "unwrap", "admin", "Right(0)", "Right(7)"} {
		if r, ok := policy.ParseRight(bad); ok || r != 0 {
			t.Errorf("%q is %v, %v", bad, r, ok)
		}
	}
}
