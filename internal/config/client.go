package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keybroker/keybroker/broker/policy"
)

// maxMissRate is more than any KMS gives one account.
const maxMissRate = 1e6

// clients reads all clients into c, of which it knows the keys and listeners.
func (w *walker) clients(v value, config *Config) {
	config.MissRates = map[string]float64{}
	names, aliases := keyNames(config.Keys)
	matches := map[string]string{} // condition → client
	for _, m := range w.members(v) {
		named := w.isName(m)
		b := w.block(m, "clients.NAME")
		c := policy.Client{Name: m.name.Value}
		rate := DefaultMissRate
		b.rate("miss_rate", &rate, maxMissRate)
		if v, ok := b.fields["allow"]; ok {
			for _, item := range w.items(v) {
				c.Allow = append(c.Allow, w.rule(item, names, aliases))
			}
		}
		if v, ok := b.fields["admin"]; ok {
			c.Admin = w.rights(v)
		}
		at, ok := b.fields["match"]
		if !ok {
			continue
		}
		match, secretFile, ok := w.match(at, config.Listen.AWSKMS)
		if !ok {
			continue
		}
		condition, want := match.String(), "a caller that no other client matches: who matches two is refused"
		if match.AWS != nil { // whoever's it is
			condition, want = "access key "+match.AWS.AccessKeyID, "an access key of its own"
		}
		if other, taken := matches[condition]; taken {
			w.problem(at, fmt.Sprintf("%s, which is client %s too", condition, other), want)
			continue
		}
		matches[condition] = c.Name
		w.warnUnreachable(at, match, config.Listen)
		c.Match = match
		if named {
			config.Clients = append(config.Clients, c)
			config.MissRates[c.Name] = rate
			if match.AWS != nil {
				config.AccessKeys = append(config.AccessKeys, AccessKey{ID: match.AWS.AccessKeyID, SecretFile: secretFile, Client: c.Name})
			}
		}
	}
	slices.SortFunc(config.Clients, func(a, b policy.Client) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(config.AccessKeys, func(a, b AccessKey) int { return strings.Compare(a.Client, b.Client) })
}

// warnUnreachable warns of a client that no listener lets in.
func (w *walker) warnUnreachable(at value, match policy.Match, listen Listen) {
	switch {
	case match.AWS != nil && listen.AWSKMS == nil:
		w.warn(at, "an access key", "listen.aws_kms, without which this client cannot connect")
	case match.AWS != nil && match.AWS.UID != nil && !knowsUsers(listen.AWSKMS.Address):
		w.warn(at, "a local user, who is only known on a loopback address", "listen.aws_kms on one, without which this client is refused")
	case match.AWS != nil:
	case (match.UID != nil || match.GID != nil) && listen.GRPC == nil:
		w.warn(at, "a local user or group", "listen.grpc, without which this client cannot connect")
	case match.UID == nil && match.GID == nil && listen.GRPCTCP == nil:
		w.warn(at, "a TLS identity", "listen.grpc_tcp, without which this client cannot connect")
	case match.UID != nil || match.GID != nil:
		w.reach(at, match, listen.GRPC)
	}
}

// match reads exactly one condition, and the path of the secret if it is an access
// key.
func (w *walker) match(v value, endpoint *AWSEndpoint) (_ policy.Match, secretFile string, ok bool) {
	const want = "exactly one of unix: {user}, unix: {uid}, unix: {group}, unix: {gid}, tls: {spiffe_id}, tls: {dns} and aws: {access_key_id}"
	before := len(w.problems)
	b := w.block(v, "clients.NAME.match")
	var m policy.Match
	conditions := 0
	if v, ok := b.fields["unix"]; ok {
		b := w.block(v, "clients.NAME.match.unix")
		conditions += len(b.fields)
		if len(b.fields) == 1 {
			m.UID = b.account("user", "uid", w.env.LookupUser)
			m.GID = b.account("group", "gid", w.env.LookupGroup)
		}
	}
	if v, ok := b.fields["tls"]; ok {
		b := w.block(v, "clients.NAME.match.tls")
		conditions += len(b.fields)
		if len(b.fields) == 1 {
			b.spiffeID("spiffe_id", &m.SPIFFEID)
			b.dnsName("dns", &m.DNSName)
		}
	}
	if v, ok := b.fields["aws"]; ok {
		conditions++
		m.AWS, secretFile = w.awsMatch(v, endpoint)
	}
	if len(w.problems) > before {
		return m, "", false
	}
	if conditions != 1 {
		found := "no condition"
		if conditions > 1 {
			found = fmt.Sprintf("%d conditions", conditions)
		}
		w.problem(v, found, want)
		return m, "", false
	}
	return m, secretFile, true
}

func (b block) spiffeID(name string, dst *string) {
	const want = "the SPIFFE ID of a workload, such as spiffe://example.org/tikv"
	b.pattern(name, dst, spiffeForm, want)
	for part := range strings.SplitSeq(*dst, "/") {
		if part == "." || part == ".." || len(*dst) > 2048 {
			b.w.mismatch(b.fields[name], want)
			*dst = ""
		}
	}
}

func (b block) dnsName(name string, dst *string) {
	b.pattern(name, dst, dnsForm, "the DNS name in the client's certificate, whole and without wildcard")
	if len(*dst) > 253 {
		b.w.mismatch(b.fields[name], "a DNS name of at most 253 characters")
		*dst = ""
	}
}

// rule reads what a client may do with some keys.
func (w *walker) rule(v value, keys []string, aliases map[string]string) policy.Rule {
	b := w.block(v, "clients.NAME.allow[]")
	var r policy.Rule
	if v, ok := b.fields["keys"]; ok {
		w.words(v, "the name of a key, or \"*\" for all", func(item value, name string) bool {
			owner, isAlias := aliases[name]
			switch {
			case len(keys) == 0 || name == policy.AnyKey || slices.Contains(keys, name):
				// Without keys, there is a problem there that is told already.
				r.Keys = append(r.Keys, name)
			case isAlias:
				w.problem(item, fmt.Sprintf("%s, an alias of key %s", quote(name), owner), fmt.Sprintf("the key's own name, %s", owner))
			default:
				w.problem(item, quote(name)+", which is not under keys", "the name of a key, or \"*\" for all"+suggest(name, keys))
			}
			return true
		})
	}
	if v, ok := b.fields["operations"]; ok {
		var names []string
		for _, o := range append(policy.Operations(), policy.Any) {
			names = append(names, o.String())
		}
		want := "one of " + strings.Join(names, ", ")
		w.words(v, want, func(_ value, name string) bool {
			o, ok := policy.ParseOperation(name)
			r.Operations = append(r.Operations, o)
			return ok
		}, names...)
	}
	return r
}

// rights reads admin rights.
func (w *walker) rights(v value) []policy.Right {
	var names []string
	for _, r := range append(policy.Rights(), policy.AnyRight) {
		names = append(names, r.String())
	}
	var rights []policy.Right
	w.words(v, "one of "+strings.Join(names, ", "), func(_ value, name string) bool {
		r, ok := policy.ParseRight(name)
		rights = append(rights, r)
		return ok
	}, names...)
	return rights
}

// words reads a list of at least one string, each once, and hands each to f,
// which returns false if it is none of the choices.
func (w *walker) words(v value, want string, f func(item value, word string) bool, choices ...string) {
	items := w.items(v)
	if len(items) == 0 {
		least := "at least one: " + want
		if choice, ok := strings.CutPrefix(want, "one of "); ok {
			least = "at least one of " + choice
		}
		w.mismatch(v, least)
	}
	seen := map[string]bool{}
	for _, item := range items {
		word, ok := w.text(item, want)
		switch {
		case !ok:
		case seen[word]:
			w.problem(item, quote(word)+" a second time", "each once")
		case !f(item, word):
			w.problem(item, quote(word), want+suggest(word, choices))
		}
		seen[word] = true
	}
}
