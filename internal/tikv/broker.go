package tikv

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/internal/secret"
)

// Broker is what of a broker's configuration concerns TiKV. It is read only.
type Broker struct {
	// Endpoint is the URL under which TiKV reaches the broker, without a path.
	Endpoint string
	// Everywhere: it listens on every interface, so that other hosts' names may
	// lead to it, too.
	Everywhere bool
	// Region and Account are those in the ARNs that the broker gives out.
	Region, Account string
	Keys            []Key
	Clients         []Client
}

// Key is a broker key.
type Key struct {
	Name    string
	Aliases []string
	// Passthrough is the ARN of the AWS key whose own blobs are handed on to AWS.
	// Empty: none are.
	Passthrough string
}

// Client is a caller with an access key.
type Client struct {
	Name, AccessKeyID string
	// SecretFile holds the secret; Secret is what is in it, without white space
	// around. Its zero value: the file could not be read.
	SecretFile string
	Secret     secret.Value
	// Lacks returns those of the operations that it may not do with the key of this
	// canonical name. Nil: not known, it lacks none.
	Lacks func(key string, operations ...string) []string
}

// The operations that a store asks for: generate when it is first encrypted and
// when its master key is replaced, unwrap whenever it starts.
const (
	opGenerate = "generate"
	opUnwrap   = "unwrap"
)

// Lacking returns the operations that a store needs for its master-key and c may not
// do with the key of this canonical name.
func (c Client) Lacking(key string) []string { return c.lacking(key, opGenerate, opUnwrap) }

func (c Client) lacking(key string, operations ...string) []string {
	if c.Lacks == nil {
		return nil
	}
	return c.Lacks(key, operations...)
}

// Listen sets Endpoint and Everywhere to those of a listener on address, which is
// host:port, as who is on the same host reaches it.
func (b *Broker) Listen(address string, tls bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = address, ""
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		b.Everywhere = true
		host = "127.0.0.1"
		if ip.Is6() {
			host = "::1"
		}
	}
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port)}
	if tls {
		u.Scheme = "https"
	}
	b.Endpoint = u.String()
}

// form is one of the forms of a key id.
type form int

const (
	byName form = iota + 1
	byBareAlias
	byAlias // with alias/, also in an ARN
	byARN
	byPassthrough
)

// find returns the key that the key id names, and how; nil if there is none. A
// reason says why, if it is not that the name is unknown.
func (b Broker) find(id string) (k *Key, how form, reason string) {
	for i := range b.Keys {
		if p := b.Keys[i].Passthrough; p != "" && (id == p || id == p[strings.LastIndex(p, "/")+1:]) {
			return &b.Keys[i], byPassthrough, ""
		}
	}
	rest, isARN := id, strings.HasPrefix(id, "arn:")
	if isARN {
		// arn:aws:kms:REGION:ACCOUNT:key/NAME
		parts := strings.SplitN(id, ":", 6)
		if len(parts) != 6 || parts[1] != "aws" || parts[2] != "kms" {
			return nil, 0, "which is no ARN of a KMS key"
		}
		if parts[3] != b.Region || parts[4] != b.Account {
			return nil, 0, "an ARN of another region or account than the broker's (" + b.Region + ", " + b.Account + ")"
		}
		rest = parts[5]
		if name, ok := strings.CutPrefix(rest, "key/"); ok {
			return b.named(name), byARN, ""
		}
	}
	if alias, ok := strings.CutPrefix(rest, "alias/"); ok {
		if k := b.aliased(alias); k != nil {
			return k, byAlias, ""
		}
		return b.named(alias), byAlias, ""
	}
	if isARN {
		return nil, 0, "which is no ARN of a KMS key"
	}
	if k := b.named(id); k != nil {
		return k, byName, ""
	}
	return b.aliased(id), byBareAlias, ""
}

func (b Broker) named(name string) *Key {
	if i := slices.IndexFunc(b.Keys, func(k Key) bool { return k.Name == name }); i >= 0 {
		return &b.Keys[i]
	}
	return nil
}

func (b Broker) aliased(name string) *Key {
	if i := slices.IndexFunc(b.Keys, func(k Key) bool { return slices.Contains(k.Aliases, name) }); i >= 0 {
		return &b.Keys[i]
	}
	return nil
}

// keyNames are the names of all keys.
func (b Broker) keyNames() string {
	names := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		names[i] = k.Name
	}
	return strings.Join(names, ", ")
}

func (b Broker) client(accessKeyID string) *Client {
	if i := slices.IndexFunc(b.Clients, func(c Client) bool { return c.AccessKeyID == accessKeyID }); i >= 0 {
		return &b.Clients[i]
	}
	return nil
}
