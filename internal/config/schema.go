package config

// entry is one key of a block.
type entry struct {
	name     string
	required bool
	// later: the key has its meaning, but not yet in this version.
	later bool
	// when names a sibling; the key is only there if that has one of the values
	// of in.
	when string
	in   []string
	// choices are the values it may have, if they are few.
	choices []string
}

// schema returns every key of the configuration, by block. It alone decides what
// a block may hold; the documentation is held to it. NAME stands for a name that
// the operator chooses, [] for an item of a list.
func schema() map[string][]entry {
	must := func(name string) entry { return entry{name: name, required: true} }
	may := func(name string) entry { return entry{name: name} }
	later := func(name string) entry { return entry{name: name, later: true} }
	oneOf := func(e entry, choices ...string) entry { e.choices = choices; return e }
	of := func(e entry, when string, in ...string) entry { e.when, e.in = when, in; return e }

	return map[string][]entry{
		"": {
			must("version"), may("node"), must("listen"), must("backends"), must("keys"),
			may("clients"), must("audit"), may("memory"), may("cache"),
		},
		"listen":          {may("grpc"), may("grpc_tcp"), may("aws_kms"), may("admin")},
		"listen.grpc":     {must("socket"), may("mode"), may("user"), may("uid"), may("group"), may("gid")},
		"listen.grpc_tcp": {must("address"), must("cert"), must("key"), must("client_ca")},
		"listen.aws_kms": {
			must("address"), may("region"), may("account"), may("cert"), may("key"), may("answer_by"), may("clock_window"),
		},
		"listen.admin": {must("address")},
		"backends.NAME": {
			oneOf(must("type"), TypeFile, TypeVault, TypeAWSKMS, TypeGCPKMS),
			of(must("path"), "type", TypeFile),
			of(must("address"), "type", TypeVault),
			of(may("id"), "type", TypeVault),
			of(may("namespace"), "type", TypeVault),
			of(may("mount"), "type", TypeVault),
			of(may("timeout"), "type", TypeVault, TypeAWSKMS, TypeGCPKMS),
			of(must("auth"), "type", TypeVault),
			of(may("tls"), "type", TypeVault),
			of(must("region"), "type", TypeAWSKMS),
			of(may("profile"), "type", TypeAWSKMS),
			of(may("fips"), "type", TypeAWSKMS),
			of(may("assume_role"), "type", TypeAWSKMS),
			of(may("web_identity"), "type", TypeAWSKMS),
			of(may("endpoint"), "type", TypeAWSKMS, TypeGCPKMS),
			of(may("ca_file"), "type", TypeAWSKMS, TypeGCPKMS),
			of(may("credentials_file"), "type", TypeGCPKMS),
			of(may("impersonate"), "type", TypeGCPKMS),
			of(may("quota_project"), "type", TypeGCPKMS),
		},
		"backends.NAME.auth": {
			oneOf(must("method"), MethodToken, MethodAppRole, MethodKubernetes),
			of(must("token_file"), "method", MethodToken),
			of(must("role_id_file"), "method", MethodAppRole),
			of(must("secret_id_file"), "method", MethodAppRole),
			of(may("secret_id_wrapped"), "method", MethodAppRole),
			of(must("role"), "method", MethodKubernetes),
			of(may("jwt_file"), "method", MethodKubernetes),
			of(may("mount"), "method", MethodAppRole, MethodKubernetes),
		},
		"backends.NAME.tls":          {may("ca_file"), may("cert_file"), may("key_file"), may("server_name")},
		"backends.NAME.assume_role":  {must("role_arn"), may("external_id"), may("session_name")},
		"backends.NAME.web_identity": {must("role_arn"), must("token_file"), may("session_name")},
		"keys.NAME": {
			must("recipients"), may("former_recipients"), may("min_recipients"), may("hedge_after"), may("check_interval"),
			may("context"), may("former_contexts"), may("cache"), may("intermediate"), may("aliases"), may("passthrough"),
			may("warm"), oneOf(may("context_values"), "plain", "hash"),
		},
		"keys.NAME.recipients[]":        {must("backend"), must("key")},
		"keys.NAME.former_recipients[]": {must("backend"), must("key")},
		"keys.NAME.cache": {
			may("ttl"), may("max_stale"),
			may("refresh_after"), may("negative_ttl"), later("persist"),
		},
		"keys.NAME.intermediate":  {may("max_age"), may("max_uses")},
		"keys.NAME.passthrough":   {must("backend"), must("key"), may("contexts")},
		"clients.NAME":            {must("match"), may("allow"), may("admin"), may("miss_rate")},
		"clients.NAME.match":      {may("unix"), may("tls"), may("aws")},
		"clients.NAME.match.unix": {may("user"), may("uid"), may("group"), may("gid")},
		"clients.NAME.match.tls":  {may("spiffe_id"), may("dns")},
		"clients.NAME.match.aws": {
			must("access_key_id"), must("secret_key_file"), may("user"), may("uid"), may("any_local_user"),
		},
		"clients.NAME.allow[]": {must("keys"), must("operations")},
		"audit": {
			must("path"), oneOf(may("sync"), "os", "always"), of(may("sync_interval"), "sync", "os"),
			oneOf(may("on_failure"), "deny", "allow"), may("min_free"),
			may("rotate"), may("signing_key"), may("checkpoint_interval"), may("strict_start"), may("export"), may("anchor"),
		},
		"audit.export": {must("otlp")},
		"audit.export.otlp": {
			must("endpoint"), may("headers_file"), may("ca_file"), may("cert_file"), may("key_file"), may("timeout"),
		},
		"audit.anchor":      {may("interval"), may("kms"), may("http")},
		"audit.anchor.kms":  {must("backend"), must("key")},
		"audit.anchor.http": {must("url"), may("token_file"), may("ca_file")},
		"audit.rotate":      {may("max_size"), may("max_age"), may("keep"), may("keep_age"), may("keep_size"), may("compress")},
		"memory":            {oneOf(may("locked"), "require", "prefer"), may("size")},
		"cache":             {may("capacity"), oneOf(may("handover"), "auto", "off"), may("persist")},
		"cache.persist":     {must("path"), may("key_file"), may("tpm"), may("max_age")},
	}
}
