package tikv

import (
	"crypto/subtle"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// The vendors that some TiKV knows (cloud: src/lib.rs).
const (
	vendorAWS   = "aws"
	vendorGCP   = "gcp"
	vendorGCP2  = "gcp_v2"
	vendorAzure = "azure"
)

// kms checks a master key in a KMS.
func (c *checker) kms(path []string) {
	at := func(name string) []string { return append(slices.Clone(path), name) }
	c.table(path, masterKeyFields()...)
	id, okID := c.text(at("key-id")...)
	endpoint, okEndpoint := c.text(at("endpoint")...)
	region, okRegion := c.text(at("region")...)
	vendor, okVendor := c.text(at("vendor")...)
	if okVendor && !c.vendor(path, vendor) {
		return
	}
	if okID && id == "" {
		c.found(Fatal, at("key-id"), "nothing", "the name of a key of the broker ("+c.broker.keyNames()+")")
		okID = false
	}
	if !okEndpoint {
		return
	}
	if c.asksAWS(endpoint) {
		c.direct(path, id)
		return
	}
	if !c.endpoint(at("endpoint"), endpoint, isPrevious(path)) {
		return
	}
	var key *Key
	if okID {
		key = c.keyID(at("key-id"), id)
	}
	if okRegion && region != c.broker.Region {
		found := c.quote(region)
		if region == "" {
			found = "nothing, for which TiKV takes AWS_REGION, a profile's or us-east-1"
		}
		c.found(Doubtful, at("region"), found, c.quote(c.broker.Region)+", the broker's")
	}
	c.credentials(path, key)
}

func isPrevious(path []string) bool { return path[len(path)-1] == previousKey }

// vendor tells whether it is AWS's, which the broker speaks.
func (c *checker) vendor(path []string, vendor string) bool {
	where := append(slices.Clone(path), "vendor")
	switch vendor {
	case "", vendorAWS:
		return true
	case vendorGCP, vendorGCP2, vendorAzure:
		if isPrevious(path) {
			if c.kind(append(slices.Clone(path[:len(path)-1]), masterKey)) != typeKMS {
				return false // out of it, to a file
			}
			c.found(Fatal, where, c.quote(vendor)+", whose key.dict a master-key of another vendor cannot take over", `type = "file" between: from `+vendor+` to a file, then from the file to the broker`)
			return false
		}
		c.found(Doubtful, where, c.quote(vendor)+": this broker is not asked", `"aws"`)
		return false
	}
	if strings.EqualFold(vendor, vendorAWS) {
		c.found(Fatal, where, c.quote(vendor), `"aws", in lower case`)
	} else {
		c.found(Fatal, where, c.quote(vendor)+", which TiKV does not know", `"aws"`)
	}
	return false
}

// asksAWS tells whether TiKV would ask AWS itself.
func (c *checker) asksAWS(endpoint string) bool {
	if endpoint == "" {
		return true
	}
	u, err := url.Parse(endpoint)
	if err != nil {
		return false
	}
	host := u.Hostname()
	return strings.HasSuffix(host, ".amazonaws.com") || strings.HasSuffix(host, ".amazonaws.com.cn")
}

// asksBroker tells whether the master key at path comes from the broker, whatever
// else is wrong with it.
func (c *checker) asksBroker(path []string) bool {
	v, _ := c.doc.at(append(slices.Clone(path), "endpoint"))
	endpoint, _ := v.(string)
	return !c.asksAWS(endpoint)
}

// direct checks a master key of AWS KMS itself.
func (c *checker) direct(path []string, id string) {
	at := append(slices.Clone(path), "endpoint")
	key, how, _ := c.broker.find(id)
	switch {
	case key != nil && how != byPassthrough:
		c.found(Fatal, at, "no endpoint of the broker: TiKV would ask AWS itself for "+c.quote(id)+", a key of the broker", c.quote(c.broker.Endpoint))
	case !isPrevious(path):
		c.found(Doubtful, at, "no endpoint of the broker: TiKV asks AWS itself", c.quote(c.broker.Endpoint)+", unless AWS_ENDPOINT_URL_KMS says so in TiKV's environment")
	}
	if access, ok := c.text(append(slices.Clone(path), "aws", "access-key")...); ok && isCloudKey(access) {
		c.found(Doubtful, append(slices.Clone(path), "aws"), "a key of an AWS account", "none here: TiKV writes it with its secret into its log when it starts; give it in the environment, or by a role")
	}
}

// endpoint tells whether it is the broker's, and reports what is wrong with it.
func (c *checker) endpoint(path []string, endpoint string, previous bool) bool {
	want := c.quote(c.broker.Endpoint)
	if !strings.Contains(endpoint, "://") {
		c.found(Fatal, path, "no scheme in it: TiKV tells \"dispatch failure\" after 5 minutes", want)
		return true
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		c.found(Fatal, path, "no http or https URL", want)
		return true
	}
	if u.User != nil {
		c.found(Fatal, path, "a URL with a user or password", want)
		return true
	}
	ours, err := url.Parse(c.broker.Endpoint)
	if err != nil {
		return true
	}
	here := u.Hostname() == ours.Hostname() || c.broker.Everywhere && isLoopback(u.Hostname())
	switch samePort := u.Port() == ours.Port(); {
	case here && samePort && u.Scheme != ours.Scheme:
		c.found(Fatal, path, c.quote(endpoint), c.quote(ours.Scheme+"://"+u.Host)+": the broker has no other scheme there")
	case (here || isLoopback(u.Hostname())) && !samePort:
		c.found(Fatal, path, c.quote(endpoint)+", where the broker does not listen", want)
	case here || c.broker.Everywhere && samePort:
	case u.Hostname() == "localhost":
		c.found(Doubtful, path, c.quote(endpoint)+", whose name may stand for another address than the broker's", want)
	case previous:
		c.found(Doubtful, path, c.quote(endpoint)+", which is not this broker's: the rest of it is not checked", want+", or what was there before the broker")
		return false
	case isLoopback(ours.Hostname()) && !c.broker.Everywhere:
		c.found(Fatal, path, c.quote(endpoint)+", and the broker listens on "+ours.Host+" alone", want)
	default:
		c.found(Doubtful, path, c.quote(endpoint)+", which may lead elsewhere", want)
	}
	if u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" {
		c.found(Doubtful, path, "a path, query or fragment after the port", want)
	}
	return true
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// keyID checks a key id, and returns the key.
func (c *checker) keyID(path []string, id string) *Key {
	key, how, reason := c.broker.find(id)
	switch {
	case key == nil && reason != "":
		c.found(Fatal, path, c.quote(id)+", "+reason, "the name of a key of the broker ("+c.broker.keyNames()+")")
	case key == nil:
		c.found(Fatal, path, c.quote(id)+", which no key of the broker is called", "one of "+c.broker.keyNames())
	case how == byBareAlias || how == byAlias:
		c.found(Doubtful, path, c.quote(id)+", an alias: once it means another key, no store that has it starts again", c.quote(key.Name)+c.slash(id))
	case how == byARN:
		c.found(Doubtful, path, c.quote(id)+", which changes with the broker's region and account", c.quote(key.Name)+c.slash(id))
	case strings.Contains(id, "/"): // a passthrough key's
		c.found(Doubtful, path, c.quote(id)+", which has a slash", "the part after the slash, if log backups are to be restored: BR takes no other")
	}
	return key
}

// slash says one more reason to want another id.
func (c *checker) slash(id string) string {
	if strings.Contains(id, "/") {
		return "; BR's URLs take no id with a slash either"
	}
	return ""
}

// minSecret is the length from which on an access key is not shown. The broker takes
// no shorter secret, and ids have 20 characters.
const minSecret = 32

// credentials checks [....aws], of which key is the master key, if that is known.
func (c *checker) credentials(path []string, key *Key) {
	at := func(name ...string) []string { return append(append(slices.Clone(path), "aws"), name...) }
	if _, there := c.doc.at(at()); !there {
		c.found(Doubtful, at(), "no access key", "one of the broker's (TiKV 8.4 and later), or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in TiKV's environment; with neither it does not start")
		return
	}
	if !c.table(at(), "access-key", "secret-access-key") {
		return
	}
	id, okID := c.text(at("access-key")...)
	secret, okSecret := c.text(at("secret-access-key")...)
	if !okID || !okSecret {
		return
	}
	switch {
	case id == "" && secret == "":
		c.found(Fatal, at(), "neither access-key nor secret-access-key", "both")
		return
	case id == "":
		c.found(Fatal, at("access-key"), "nothing: TiKV ignores the secret without it, and looks for a cloud's", "the access key that belongs to the secret")
		return
	case secret == "":
		c.found(Fatal, at("secret-access-key"), "nothing: TiKV ignores the access key without it, and looks for a cloud's", "the secret that belongs to the access key")
	}
	client := c.broker.client(id)
	switch {
	case client != nil:
	case len(id) >= minSecret:
		// The two may have been mistaken for each other.
		c.found(Fatal, at("access-key"), "what no client of the broker has, and may be a secret", "the access_key_id of a client; `keybroker client add` makes one")
		return
	case isCloudKey(id):
		c.found(Fatal, at("access-key"), c.quote(id)+", a key of an AWS account", "a key of the broker (`keybroker client add`); replace that one in AWS: TiKV writes it with its secret into its log when it starts")
		return
	default:
		c.found(Fatal, at("access-key"), c.quote(id)+", which no client of the broker has", "the access_key_id of a client; `keybroker client add` makes one")
		return
	}
	if secret != "" {
		c.secret(at("secret-access-key"), client, secret)
	}
	if key == nil {
		return
	}
	operations := []string{opGenerate, opUnwrap}
	if isPrevious(path) {
		operations = []string{opUnwrap}
	}
	if lacks := client.lacking(key.Name, operations...); len(lacks) > 0 {
		c.found(Fatal, at("access-key"), fmt.Sprintf("%q: client %s may not %s with key %s", id, client.Name, strings.Join(lacks, " and "), key.Name),
			fmt.Sprintf("clients.%s.allow: [{keys: [%s], operations: [%s]}]", client.Name, key.Name, strings.Join(operations, ", ")))
	}
}

// secret compares a secret with the client's, and shows neither.
func (c *checker) secret(path []string, client *Client, secret string) {
	file := client.SecretFile
	switch {
	case strings.HasPrefix(secret, placeholderStart):
		c.found(Fatal, path, "a placeholder", "the content of "+file)
	case client.Secret.Len() == 0:
		c.found(Doubtful, path, "a secret that was not compared with client "+client.Name+"'s: "+file+" cannot be read", "to be run as a user who may read it")
	case subtle.ConstantTimeCompare([]byte(secret), client.Secret.Bytes()) == 1:
	case subtle.ConstantTimeCompare([]byte(strings.TrimSpace(secret)), client.Secret.Bytes()) == 1:
		c.found(Fatal, path, "white space around the secret", "the content of "+file+" without it")
	default:
		c.found(Fatal, path, "another secret than client "+client.Name+"'s", "the content of "+file)
	}
}
