package awskms

import (
	"errors"
	"strings"
)

// keyARN is the ARN of a KMS key, arn:PARTITION:kms:REGION:ACCOUNT:key/ID.
type keyARN struct {
	partition, region, account, id string
}

// Limits of the parts of an ARN, in bytes. What is within them fits into a
// reference.
const (
	maxPartition = 32
	maxRegion    = 32
	accountSize  = 12
	maxID        = 128
)

// multiRegion begins the id of a key of which there may be replicas in other
// regions: the same id, the same key material.
const multiRegion = "mrk-"

// parseARN reads an ARN that has been written in the one way that there is.
func parseARN(s string) (keyARN, bool) {
	parts := strings.Split(s, ":")
	if len(parts) != 6 || parts[0] != "arn" || parts[2] != "kms" {
		return keyARN{}, false
	}
	id, isKey := strings.CutPrefix(parts[5], "key/")
	a := keyARN{parts[1], parts[3], parts[4], id}
	ok := isKey &&
		within(a.partition, maxPartition, lower, "-") && strings.HasPrefix(a.partition, "aws") &&
		within(a.region, maxRegion, lower, digits, "-") &&
		len(a.account) == accountSize && within(a.account, accountSize, digits) &&
		within(a.id, maxID, lower, upper, digits, "-")
	return a, ok
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// within tells whether s is 1 to n bytes, each from one of the sets.
func within(s string, n int, sets ...string) bool {
	return s != "" && len(s) <= n && strings.Trim(s, strings.Join(sets, "")) == ""
}

func (a keyARN) String() string {
	return "arn:" + a.partition + ":kms:" + a.region + ":" + a.account + ":key/" + a.id
}

// is tells whether a and b are one key, or replicas of one multi-region key.
func (a keyARN) is(b keyARN) bool {
	if strings.HasPrefix(a.id, multiRegion) {
		a.region = b.region
	}
	return a == b
}

// ValidKey tells whether key can be a master key as the config writes it: the
// ARN of a KMS key, arn:PARTITION:kms:REGION:ACCOUNT:key/ID. The error says what
// to write instead, and does not repeat key. An alias is refused because it can be
// pointed at another key, which does not open what the former one has wrapped; an
// id alone because it does not say in which account and region the key is.
func ValidKey(key string) error {
	if _, ok := parseARN(key); ok {
		return nil
	}
	what := "this is no ARN of a KMS key"
	switch {
	case strings.HasPrefix(key, "alias/"), strings.HasPrefix(key, "arn:") && strings.Contains(key, ":alias/"):
		what = "this is an alias, which can be pointed at another key"
	case within(key, maxID, lower, upper, digits, "-"):
		what = "this does not say in which region and account the key is"
	}
	return errors.New(what + "; write the key's ARN, arn:aws:kms:REGION:ACCOUNT:key/ID, which this shows: aws kms describe-key --query KeyMetadata.Arn --output text --key-id NAME")
}
