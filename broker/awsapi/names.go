package awsapi

import (
	"strings"
	"unicode"
)

// names turns AWS's names of keys into the broker's, and back.
type names struct {
	region, account string
	// passthrough returns the key whose passthrough has this ARN, or this id.
	passthrough func(keyID string) (name string, ok bool)
}

// arn is the ARN of a resource of this endpoint: key/NAME or alias/NAME.
func (n names) arn(resource string) string {
	return "arn:aws:kms:" + n.region + ":" + n.account + ":" + resource
}

func (n names) keyARN(name string) string { return n.arn("key/" + name) }

// name returns the name or alias of the broker's key that keyID means: an id, an
// alias, or the ARN of one. An ARN of elsewhere means none, unless it is a
// passthrough's.
func (n names) name(keyID string) (string, *refusal) {
	if name, ok := n.passthrough(keyID); ok {
		return name, nil
	}
	resource := keyID
	if strings.HasPrefix(keyID, "arn:") {
		parts := strings.SplitN(keyID, ":", 6)
		if len(parts) != 6 || parts[1] != "aws" && !strings.HasPrefix(parts[1], "aws-") || parts[2] != "kms" ||
			parts[3] != n.region || parts[4] != n.account {
			return "", refusef(notFound, "this endpoint has the keys %s and %s alone, and %.256q is none of them", n.keyARN("NAME"), n.arn("alias/NAME"), keyID)
		}
		id, isKey := strings.CutPrefix(parts[5], "key/")
		if isKey && id != "" && !strings.Contains(id, "/") {
			return id, nil
		}
		if resource = parts[5]; !strings.HasPrefix(resource, aliasPrefix) {
			return "", refusef(notFound, "%.256q is the ARN of no key and no alias", keyID)
		}
	}
	name := strings.TrimPrefix(resource, aliasPrefix)
	if name == "" || strings.Contains(name, "/") {
		return "", refusef(notFound, "%.256q names no key; `keybroker keys` lists those there are", keyID)
	}
	return name, nil
}

const aliasPrefix = "alias/"

// keyOf returns the broker's name of a key that must be named.
func (x *exchange) keyOf(member string, keyID *string) (string, *refusal) {
	if keyID == nil {
		return "", refuse(validation, member+" is missing")
	}
	if len(*keyID) == 0 || len(*keyID) > maxKeyID {
		return "", refuse(validation, member+" is 1 to 2048 characters")
	}
	x.key = text(visible(*keyID))
	return x.names.name(*keyID)
}

// keyIfSaid is keyOf for a key that need not be named: "" if it is not.
func (x *exchange) keyIfSaid(member string, keyID *string) (string, *refusal) {
	if keyID == nil {
		return "", nil
	}
	return x.keyOf(member, keyID)
}

// visible is s as a line of the log may hold it: whoever reads that in a terminal
// sends no control characters to it, which are not all escaped in JSON.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
