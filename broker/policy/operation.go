package policy

import "fmt"

// Operation is something a client does with a key. Its zero value is no
// operation and is never allowed.
type Operation uint8

// The operations (design: Rewrap within a key needs Rewrap; to another key, or
// with another context, Unwrap on the source and Wrap on the target: the broker
// asks for each).
const (
	Generate Operation = iota + 1
	Wrap
	Unwrap
	Rewrap
	Inspect
	List
	// Any stands in a Rule for all operations, and for no admin right. Asked of
	// a client, it is never allowed: nobody performs Any.
	Any
)

// Operations returns the operations in the order of the documentation, without
// Any.
func Operations() []Operation {
	return []Operation{Generate, Wrap, Unwrap, Rewrap, Inspect, List}
}

// ParseOperation returns the operation that s names in a config; "*" is Any.
func ParseOperation(s string) (Operation, bool) {
	for o := Generate; o <= Any; o++ {
		if s == o.String() {
			return o, true
		}
	}
	return 0, false
}

// String returns the operation's name in the config, the audit and messages.
func (o Operation) String() string {
	switch o {
	case Generate:
		return "generate"
	case Wrap:
		return "wrap"
	case Unwrap:
		return "unwrap"
	case Rewrap:
		return "rewrap"
	case Inspect:
		return "inspect"
	case List:
		return "list"
	case Any:
		return "*"
	default:
		return fmt.Sprintf("Operation(%d)", uint8(o))
	}
}

// Right is a right over the broker itself. No Operation includes one. Its zero
// value is no right and is never allowed.
type Right uint8

// The admin rights.
const (
	Status Right = iota + 1
	Purge
	Reload
	Tail
	Drill
	// AnyRight stands in Client.Admin for all rights. Asked of a client, it is
	// never allowed.
	AnyRight
)

// Rights returns the admin rights in the order of the documentation, without
// AnyRight.
func Rights() []Right {
	return []Right{Status, Purge, Reload, Tail, Drill}
}

// ParseRight returns the right that s names in a config; "*" is AnyRight.
func ParseRight(s string) (Right, bool) {
	for r := Status; r <= AnyRight; r++ {
		if s == r.String() {
			return r, true
		}
	}
	return 0, false
}

// String returns the right's name in the config and in messages.
func (r Right) String() string {
	switch r {
	case Status:
		return "status"
	case Purge:
		return "purge"
	case Reload:
		return "reload"
	case Tail:
		return "tail"
	case Drill:
		return "drill"
	case AnyRight:
		return "*"
	default:
		return fmt.Sprintf("Right(%d)", uint8(r))
	}
}

// set is a set of operations or rights: bit n is the one with value n.
type set uint8

func (s set) has(n uint8) bool { return n < 8 && s&(1<<n) != 0 }
