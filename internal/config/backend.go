package config

import (
	"net/url"
	"slices"
	"strings"
	"time"
)

func (w *walker) backends(v value) []Backend {
	var backends []Backend
	members := w.members(v)
	if len(v.node.Content) == 0 {
		w.mismatch(v, "at least one backend")
	}
	for _, m := range members {
		named := w.isName(m)
		if backend, ok := w.backend(m); ok && named {
			backends = append(backends, backend)
		}
	}
	slices.SortFunc(backends, func(a, b Backend) int { return strings.Compare(a.Name, b.Name) })
	return backends
}

func (w *walker) backend(v value) (Backend, bool) {
	backend := Backend{Name: v.name.Value}
	b := w.block(v, "backends.NAME")
	b.oneOf("type", &backend.Type)
	switch backend.Type {
	case TypeFile:
		backend.File = &File{}
		b.directory("path", &backend.File.Path)
	case TypeVault:
		backend.Vault = w.vault(b)
	case TypeAWSKMS:
		backend.AWSKMS = w.awsKMS(b)
	case TypeGCPKMS:
		backend.GCPKMS = w.gcpKMS(b)
	default:
		return backend, false
	}
	return backend, true
}

// directory reads the path of a keyring.
func (b block) directory(name string, dst *string) {
	b.path(name, dst)
	if *dst != "" {
		b.w.need(b.fields[name], *dst, keyring)
	}
}

func (w *walker) vault(b block) *Vault {
	vault := &Vault{Mount: DefaultVaultMount, Timeout: DefaultKMSTimeout}
	if u := b.url("address", &vault.Address, "https://vault.example.com:8200"); inTheClear(u) {
		v := b.fields["address"]
		w.warn(v, quote(v.node.Value)+", over which tokens and keys go in the clear", "https")
	}
	b.pattern("id", &vault.ID, vaultID, "1 to 64 letters, digits, dots, underscores and hyphens, with a letter or digit at both ends, that name this Vault for ever: they stand in every envelope")
	b.mountPath("namespace", &vault.Namespace)
	if vault.Namespace == "root" {
		w.problem(b.fields["namespace"], `"root"`, "the block without it: that is the root namespace")
	}
	b.mountPath("mount", &vault.Mount)
	b.duration("timeout", &vault.Timeout, 100*time.Millisecond, time.Minute)
	if v, ok := b.fields["auth"]; ok {
		vault.Auth = w.vaultAuth(v)
	}
	if v, ok := b.fields["tls"]; ok {
		vault.TLS = w.vaultTLS(v)
	}
	return vault
}

func (w *walker) vaultAuth(v value) VaultAuth {
	b := w.block(v, "backends.NAME.auth")
	var a VaultAuth
	b.oneOf("method", &a.Method)
	switch a.Method {
	case MethodToken:
		b.file("token_file", &a.TokenFile, private)
	case MethodAppRole:
		a.Mount = MethodAppRole
		b.file("role_id_file", &a.RoleIDFile, private)
		b.file("secret_id_file", &a.SecretIDFile, private)
		b.boolean("secret_id_wrapped", &a.SecretIDWrapped)
	case MethodKubernetes:
		a.Mount = MethodKubernetes
		a.JWTFile = DefaultJWTFile
		b.pattern("role", &a.Role, vaultPart, "the name of a role of Vault's kubernetes auth method: letters, digits, dots, underscores and hyphens")
		if _, ok := b.fields["jwt_file"]; ok {
			b.file("jwt_file", &a.JWTFile, projected)
		} else {
			w.need(value{node: v.node, path: join(v.path, "jwt_file")}, a.JWTFile, projected)
		}
	}
	b.mountPath("mount", &a.Mount)
	return a
}

func (w *walker) vaultTLS(v value) VaultTLS {
	b := w.block(v, "backends.NAME.tls")
	var t VaultTLS
	b.file("ca_file", &t.CAFile, trusted)
	b.certificate(&t.CertFile, &t.KeyFile)
	b.pattern("server_name", &t.ServerName, dnsForm, "the DNS name in Vault's certificate, whole and without wildcard")
	return t
}

// certificate reads cert_file and key_file, of which there is none or both.
func (b block) certificate(cert, key *string) {
	b.file("cert_file", cert, trusted)
	b.file("key_file", key, private)
	_, hasCert := b.fields["cert_file"]
	_, hasKey := b.fields["key_file"]
	switch {
	case hasCert && !hasKey:
		b.w.misnamed(b.fields["cert_file"], "a certificate without its key", "key_file beside it")
	case hasKey && !hasCert:
		b.w.misnamed(b.fields["key_file"], "a key without its certificate", "cert_file beside it")
	}
}

// url reads the address of a server, which is nil if there is none or a wrong
// one. A user or query in it could be a secret, so it is not repeated.
func (b block) url(name string, dst *string, example string) *url.URL {
	u := b.urlWithPath(name, dst, example)
	if u == nil || u.Path == "" {
		return u
	}
	v := b.fields[name]
	b.w.problem(v, quote(v.node.Value), "a URL such as "+example+", without a path")
	*dst = ""
	return nil
}

// urlWithPath is url of what may have a path. One that is / alone is left out.
func (b block) urlWithPath(name string, dst *string, example string) *url.URL {
	v, ok := b.fields[name]
	if !ok {
		return nil
	}
	want := "a URL such as " + example
	s, ok := b.w.text(v, want)
	if !ok {
		return nil
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || strings.ContainsAny(s, "@?#"):
		b.w.problem(v, "text that is no plain URL", want+", without user, query and fragment")
	case u.Scheme != "https" && u.Scheme != "http":
		b.w.problem(v, quote(s), want)
	case !isHost(u.Hostname()):
		b.w.problem(v, quote(s), want+", whose host is a DNS name or an IP address")
	case strings.HasSuffix(u.Host, ":") || !validPort(u.Port()):
		b.w.problem(v, quote(s), want+", whose port is 1 to 65535")
	case u.EscapedPath() != u.Path:
		b.w.problem(v, quote(s), want+", whose path has no characters that are to be escaped")
	default:
		u.Path = strings.TrimSuffix(u.Path, "/")
		*dst = u.Scheme + "://" + u.Host + u.Path
		return u
	}
	return nil
}

// inTheClear tells whether others could read what is sent to u.
func inTheClear(u *url.URL) bool {
	return u != nil && u.Scheme == "http" && !isLoopback(u.Hostname())
}

func validPort(port string) bool {
	n, ok := decimal(port)
	return port == "" || ok && n > 0 && n < 65536
}
