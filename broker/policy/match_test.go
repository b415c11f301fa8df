package policy_test

import (
	"testing"

	"github.com/keybroker/keybroker/broker/policy"
)

func TestMatch(t *testing.T) {
	matches := map[string]policy.Match{
		"uid 7":                     uid(7),
		"uid 8":                     uid(8),
		"uid 0":                     uid(0),
		"gid 0":                     gid(0),
		"gid 7":                     gid(7),
		"SPIFFE ID spiffe://a":      spiffe("spiffe://a"),
		"SPIFFE ID spiffe://ab":     spiffe("spiffe://ab"),
		"DNS name spiffe://a":       dnsName("spiffe://a"),
		"access key KB of uid 7":    accessKey("KB", 7),
		"access key KB of uid 8":    accessKey("KB", 8),
		"access key KB2 of uid 7":   accessKey("KB2", 7),
		"access key KB of any user": accessKeyOfAny("KB"),
	}
	for text, m := range matches {
		if m.String() != text {
			t.Errorf("%q, want %q", m.String(), text)
		}
		for other, o := range matches {
			if got := m.Equal(o); got != (text == other) {
				t.Errorf("%s and %s are the same: %v", text, other, got)
			}
		}
	}
	if !uid(7).Equal(uid(7)) {
		t.Error("two pointers to one uid are not the same match")
	}
}

// What no caller can meet is not the same as anything.
func TestInvalidMatch(t *testing.T) {
	for name, m := range map[string]policy.Match{
		"empty": {}, "two": {SPIFFEID: "a", DNSName: "a"}, "overflow": uid(65534), "nobody's access key": {AWS: &policy.AWSMatch{AccessKeyID: "KB"}},
	} {
		t.Run(name, func(t *testing.T) {
			if m.Equal(m) || m.Equal(uid(7)) || uid(7).Equal(m) {
				t.Error("it equals something")
			}
			if m.String() == "" {
				t.Error("it says nothing of itself")
			}
		})
	}
}
