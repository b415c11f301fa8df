// Package policy decides who may do what: identity × key × operation → yes or
// no. It is pure: it reads nothing but its arguments, and changes nothing after
// New. What is not written down is denied.
package policy

import (
	"fmt"
	"slices"

	"github.com/keybroker/keybroker/broker/peer"
)

// AnyKey stands in a Rule for every key, configured or not.
const AnyKey = "*"

// Client is who calls, and what it may do. New makes one that decides; a Client
// put together by hand allows nothing.
type Client struct {
	// Name is the client's name in the config, the audit and metrics.
	Name string
	// Match tells which callers are this client.
	Match Match
	// Allow lists what it may do with keys. The rules add up.
	Allow []Rule
	// Admin lists its rights over the broker itself.
	Admin []Right

	awsUser awsUser
	rights  set
	any     set            // operations on every key
	keys    map[string]set // operations on one key, without any
}

// Rule allows operations on keys.
type Rule struct {
	// Keys are canonical key names, never aliases, or AnyKey.
	Keys []string
	// Operations may hold Any.
	Operations []Operation
}

// Policy finds the client that a caller is. It is immutable and safe for
// concurrent use.
type Policy struct {
	clients map[matchKey]*Client
}

// New returns the Policy of clients, and keeps nothing that the caller can
// change. It fails on a client without a name, a name given twice, a Match that
// is not exactly one valid condition, two clients with the same Match or access
// key (whoever it is could never match exactly one), and on operations, rights and
// key names that are none.
func New(clients []Client) (*Policy, error) {
	p := &Policy{clients: make(map[matchKey]*Client, len(clients))}
	names := make(map[string]bool, len(clients))
	for _, c := range clients {
		if c.Name == "" {
			return nil, fmt.Errorf("a client has no name")
		}
		if names[c.Name] {
			return nil, fmt.Errorf("two clients are called %s", c.Name)
		}
		names[c.Name] = true
		k, err := c.Match.key()
		if err != nil {
			return nil, fmt.Errorf("client %s: %w", c.Name, err)
		}
		if other := p.clients[k]; other != nil && k.kind == byAccessKey {
			return nil, fmt.Errorf("clients %s and %s have the same access key (%s), so its requests could not be told apart; give each one of its own", other.Name, c.Name, k.name)
		} else if other != nil {
			return nil, fmt.Errorf("clients %s and %s have the same match (%v), so neither would ever be the only one", other.Name, c.Name, c.Match)
		}
		compiled, err := c.compile()
		if err != nil {
			return nil, fmt.Errorf("client %s: %w", c.Name, err)
		}
		p.clients[k] = compiled
	}
	return p, nil
}

// compile returns a copy of c that decides.
func (c Client) compile() (*Client, error) {
	compiled := &Client{Name: c.Name, Match: c.Match.clone(), Admin: slices.Clone(c.Admin), keys: map[string]set{}}
	if aws := c.Match.clone().AWS; aws != nil {
		compiled.awsUser = awsUser{any: aws.AnyUser, uid: aws.UID}
	}
	for _, r := range c.Allow {
		var ops set
		for _, o := range r.Operations {
			switch {
			case o == Any:
				for _, each := range Operations() {
					ops |= 1 << each
				}
			case o >= Generate && o < Any:
				ops |= 1 << o
			default:
				return nil, fmt.Errorf("%v is no operation", o)
			}
		}
		for _, name := range r.Keys {
			switch name {
			case "":
				return nil, fmt.Errorf("a rule names a key with an empty name")
			case AnyKey:
				compiled.any |= ops
			default:
				compiled.keys[name] |= ops
			}
		}
		compiled.Allow = append(compiled.Allow, Rule{Keys: slices.Clone(r.Keys), Operations: slices.Clone(r.Operations)})
	}
	for _, r := range c.Admin {
		switch {
		case r == AnyRight:
			for _, each := range Rights() {
				compiled.rights |= 1 << each
			}
		case r >= Status && r < AnyRight:
			compiled.rights |= 1 << r
		default:
			return nil, fmt.Errorf("%v is no admin right", r)
		}
	}
	return compiled, nil
}

// Identify returns the one client that the caller is. The result is shared:
// read it, do not change it. It does not allocate unless it fails.
//
// The error is a *NoClientError if no client matches, and an *AmbiguousError if
// more than one does, which no caller on AWS's protocol can.
func (p *Policy) Identify(id peer.Identity) (*Client, error) {
	var found, second *Client
	for k := range keysOf(&id) {
		switch c := p.clients[k]; {
		case c == nil || c == found:
		case found == nil:
			found = c
		default:
			second = c
		}
	}
	switch {
	case found == nil:
		return nil, &NoClientError{Caller: describe(&id), Overflow: id.UIDOverflow && id.Network == peer.Unix}
	case id.Network == peer.AWS && !found.awsUser.is(&id):
		return nil, &NoClientError{Caller: describe(&id), Overflow: id.UIDOverflow, OtherUser: found.Name}
	case second != nil:
		return nil, p.ambiguous(&id)
	default:
		return found, nil
	}
}

// Allows tells whether c may do op with the key of this canonical name.
func (c *Client) Allows(key string, op Operation) bool {
	return (c.any | c.keys[key]).has(uint8(op))
}

// HasAnyRight tells whether c may do anything at all with the key of this
// canonical name. Where not, c must not learn whether there is such a key.
func (c *Client) HasAnyRight(key string) bool {
	return c.any|c.keys[key] != 0
}

// AllowsAdmin tells whether c has an admin right. No operation on keys gives one.
func (c *Client) AllowsAdmin(r Right) bool {
	return c.rights.has(uint8(r))
}
