package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/keybroker/keybroker/broker/policy"
)

func (w *walker) awsEndpoint(v value) *AWSEndpoint {
	b := w.block(v, "listen.aws_kms")
	e := &AWSEndpoint{Region: DefaultAWSRegion, Account: DefaultAWSAccount, AnswerBy: DefaultAnswerBy, ClockWindow: DefaultClockWindow}
	b.address("address", &e.Address)
	b.pattern("region", &e.Region, endpointRegion, "what stands for the region in ARNs: 1 to 32 small letters, digits and hyphens")
	b.pattern("account", &e.Account, awsAccount, "what stands for the account in ARNs: 12 digits")
	b.file("cert", &e.CertFile, trusted)
	b.file("key", &e.KeyFile, private)
	b.duration("answer_by", &e.AnswerBy, 100*time.Millisecond, 9*time.Second)
	cert, hasCert := b.fields["cert"]
	key, hasKey := b.fields["key"]
	switch {
	case hasCert && !hasKey:
		w.misnamed(cert, "a certificate without its key", "key beside it")
	case hasKey && !hasCert:
		w.misnamed(key, "a key without its certificate", "cert beside it")
	}
	if host, port, err := net.SplitHostPort(e.Address); err == nil {
		at := b.fields["address"]
		if !isLoopback(host) {
			e.ClockWindow = DefaultClockWindowFar
		}
		if !isLoopback(host) && !hasCert && !hasKey {
			w.problem(at, quote(e.Address)+", where keys would go in the clear", "a loopback address, or cert and key")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err == nil && n != 0 && w.env.AnyoneMayBind != nil && w.env.AnyoneMayBind(uint16(n)) {
			w.warn(at, quote(e.Address)+", where any local user may listen while the broker is down, and hand out keys that he knows", "systemd to hold the port (keybroker-aws.socket), or a port that only root may bind")
		}
	}
	b.duration("clock_window", &e.ClockWindow, time.Second, 15*time.Minute)
	return e
}

// knowsUsers tells whether callers may come from a loopback address, where they
// are known (peer.TCPListener).
func knowsUsers(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil || isLoopback(host) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsUnspecified()
}

const accessKeyWant = "an access key id: 3 to 128 letters, digits, underscores and hyphens"

// awsMatch reads an access key and its user. endpoint may be nil. What has not the
// form of an access key id may be the secret, so it is not repeated.
func (w *walker) awsMatch(v value, endpoint *AWSEndpoint) (m *policy.AWSMatch, secretFile string) {
	b := w.block(v, "clients.NAME.match.aws")
	m = &policy.AWSMatch{}
	b.text("access_key_id", &m.AccessKeyID, accessKeyWant)
	if m.AccessKeyID != "" && !accessKeyID.MatchString(m.AccessKeyID) {
		w.problem(b.fields["access_key_id"], "text of another form", accessKeyWant)
	}
	b.file("secret_key_file", &secretFile, secretKey)
	m.UID = b.account("user", "uid", w.env.LookupUser)
	b.boolean("any_local_user", &m.AnyUser)
	_, hasUser := b.fields["user"]
	_, hasUID := b.fields["uid"]
	anyUser, hasAny := b.fields["any_local_user"]
	encrypted := endpoint != nil && endpoint.CertFile != ""
	switch {
	case (hasUser || hasUID) && m.AnyUser:
		w.misnamed(anyUser, "any_local_user beside a user", "one of them")
	case hasUser || hasUID || m.AnyUser || w.told[anyUser.node] || w.told[v.node]:
	case encrypted && !hasAny:
		m.AnyUser = true
	default:
		w.problem(v, "an access key without a user", "user or uid, the local user who may use it; or any_local_user: true, for every local user who knows the secret")
	}
	return m, secretFile
}

// passthrough reads where blobs of AWS KMS are sent on to. The id of that AWS key is a
// name of key from then on (awsapi), so no other key may have it in names.
//
// The contexts that may be sent are static pairs as others, so that none can have
// the name keybroker:key: with it, wrapped intermediate keys could be opened here.
func (w *walker) passthrough(v value, backends map[string]Backend, key string, names map[string]string) *Passthrough {
	b := w.block(v, "keys.NAME.passthrough")
	p := &Passthrough{}
	b.text("backend", &p.Backend, "the name of a backend of type aws-kms")
	backend, known := backends[p.Backend]
	switch {
	case p.Backend == "" || len(backends) == 0:
	case !known:
		w.problem(b.fields["backend"], quote(p.Backend)+", which is not under backends", "the name of a backend of type aws-kms"+suggest(p.Backend, slices.Sorted(maps.Keys(backends))))
	case backend.Type != TypeAWSKMS && backend.Type != "":
		w.problem(b.fields["backend"], fmt.Sprintf("%s, of type %s", quote(p.Backend), backend.Type), "a backend of type aws-kms")
	}
	if backend.Type != TypeAWSKMS {
		backend = Backend{} // what its keys are called is no matter
	}
	b.masterKey("key", backend, &p.Key)
	if id := p.Key[strings.LastIndexByte(p.Key, '/')+1:]; id != "" && backend.Type != "" && !w.told[b.fields["key"].node] {
		if owner, taken := names[id]; taken && owner != key {
			w.problem(b.fields["key"], fmt.Sprintf("%s, whose id %s is already a name of key %s, or of its passthrough", quote(p.Key), quote(id), owner), "an AWS key whose id names this key alone: clients ask by it")
		} else {
			names[id] = key
		}
	}
	if v, ok := b.fields["contexts"]; ok {
		for _, item := range w.items(v) {
			pairs := w.context(item, key)
			if item.node.Kind == yaml.MappingNode && len(item.node.Content) == 0 {
				w.mismatch(item, "a mapping of at least one pair: a request without any is always sent on")
			}
			p.Contexts = append(p.Contexts, pairs)
		}
	}
	return p
}
