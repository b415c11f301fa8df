package config

import (
	"maps"
	"slices"
	"time"
)

func (w *walker) anchor(v value, backends map[string]Backend) *Anchor {
	b := w.block(v, "audit.anchor")
	a := &Anchor{Interval: DefaultAnchorInterval}
	b.duration("interval", &a.Interval, time.Second, 24*time.Hour)
	kms, hasKMS := b.fields["kms"]
	if hasKMS {
		a.KMS = w.anchorKMS(kms, backends)
	}
	server, hasServer := b.fields["http"]
	if hasServer {
		a.HTTP = w.anchorHTTP(server)
	}
	if hasKMS == hasServer {
		found := "neither kms nor http"
		if hasKMS {
			found = "kms and http"
		}
		w.problem(v, found, "exactly one of kms: {backend, key} and http: {url}")
	}
	return a
}

// anchorKMS reads a master key, of whose wraps the KMS must keep the associated data in
// its audit trail.
func (w *walker) anchorKMS(v value, backends map[string]Backend) *Recipient {
	b := w.block(v, "audit.anchor.kms")
	r := &Recipient{}
	const want = "the name of a backend of type vault or aws-kms"
	b.text("backend", &r.Backend, want)
	backend, known := backends[r.Backend]
	switch {
	case r.Backend == "" || len(backends) == 0:
	case !known:
		w.problem(b.fields["backend"], quote(r.Backend)+", which is not under backends", want+suggest(r.Backend, slices.Sorted(maps.Keys(backends))))
	case backend.Type == TypeFile:
		w.problem(b.fields["backend"], quote(r.Backend)+", a keyring on this host, which keeps no audit trail", want+", or http")
	case backend.Type == TypeGCPKMS:
		w.problem(b.fields["backend"], quote(r.Backend)+", of type gcp-kms, whose audit logs are not known to have the associated data of a call", want+", or http")
	}
	b.masterKey("key", backend, &r.Key)
	return r
}

func (w *walker) anchorHTTP(v value) *AnchorHTTP {
	b := w.block(v, "audit.anchor.http")
	h := &AnchorHTTP{}
	if u := b.urlWithPath("url", &h.URL, "https://anchors.example.com/keybroker"); inTheClear(u) {
		v := b.fields["url"]
		w.problem(v, quote(v.node.Value)+", over which others could read the token, and keep what is sent for themselves", "https, or a loopback address")
	}
	b.file("token_file", &h.TokenFile, private)
	b.file("ca_file", &h.CAFile, trusted)
	return h
}
