package config

import (
	"net"
	"strings"
	"time"
)

func (w *walker) gcpKMS(b block) *GCPKMS {
	g := &GCPKMS{Timeout: DefaultKMSTimeout}
	b.server("endpoint", &g.Endpoint)
	b.file("ca_file", &g.CAFile, trusted)
	b.file("credentials_file", &g.CredentialsFile, private)
	b.pattern("impersonate", &g.Impersonate, serviceAccount, "the email of a service account, such as keybroker@PROJECT.iam.gserviceaccount.com")
	b.pattern("quota_project", &g.QuotaProject, gcpProject, "the id of a project")
	b.duration("timeout", &g.Timeout, 100*time.Millisecond, time.Minute)
	return g
}

// server reads the host:port of one that is connected to.
func (b block) server(name string, dst *string) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	const want = "host:port, such as cloudkms.p.googleapis.com:443"
	s, ok := b.w.text(v, want)
	if !ok {
		return
	}
	host, port, err := net.SplitHostPort(s)
	switch {
	case strings.ContainsAny(s, "@?#"):
		b.w.problem(v, "text that is no address", want)
	case err != nil || !isHost(host) || strings.Contains(host, "%") || port == "" || !validPort(port):
		b.w.problem(v, quote(s), want)
	default:
		*dst = s
	}
}
