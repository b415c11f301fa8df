package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/keybroker/keybroker/backends"
)

// server is what a Vault says of itself.
type server struct {
	clusterID string
	// namespaces: it has them, and does not serve the root to whoever asks for
	// another.
	namespaces bool
	// associatedData: its Transit knows the parameter. Versions before 1.11
	// ignore what they do not know, without a word.
	associatedData bool
}

// health is the part of sys/health that counts.
type health struct {
	Initialized bool   `json:"initialized"`
	Sealed      bool   `json:"sealed"`
	Version     string `json:"version"`
	// Enterprise is not there before Vault 1.16, nor in OpenBao.
	Enterprise *bool  `json:"enterprise"`
	ClusterID  string `json:"cluster_id"`
}

// learn asks Vault what it is, without a token, and remembers it. It fails if
// that is not what the config needs.
func (k *KMS) learn(ctx context.Context) error {
	body, err := k.client.do(ctx, request{
		method: http.MethodGet, path: "sys/health", root: true,
		// Whatever state it is in, it shall answer with a body.
		query: url.Values{
			"uninitcode": {"299"}, "sealedcode": {"299"}, "standbycode": {"299"}, "drsecondarycode": {"299"},
			"performancestandbycode": {"299"}, "haunhealthycode": {"299"}, "removedcode": {"299"},
		},
	})
	if err != nil {
		return err
	}
	var h health
	if err := json.Unmarshal(body, &h); err != nil {
		return backends.Fail(backends.Internal, "sys/health of %s does not answer as a Vault does", k.cfg.Address)
	}
	switch {
	case !h.Initialized:
		return backends.Fail(backends.Unavailable, "the Vault at %s is not initialized", k.cfg.Address)
	case h.Sealed:
		return backends.Fail(backends.Unavailable, "Vault is sealed")
	case !idForm.MatchString(h.ClusterID):
		return backends.Fail(backends.Internal, "sys/health of %s has no cluster_id that could stand in an envelope", k.cfg.Address)
	}
	s := &server{clusterID: h.ClusterID, namespaces: h.hasNamespaces(), associatedData: h.hasAssociatedData()}
	k.server.Store(s)
	if k.cfg.Namespace != "" && !s.namespaces {
		return backends.Fail(backends.InvalidArgument, "this Vault (version %.40q) does not say that it has namespaces, so it would serve the root instead of %q; leave namespace out of the configuration if the root is meant", h.Version, k.cfg.Namespace)
	}
	return nil
}

// id is what names this Vault in envelopes.
func (k *KMS) id(ctx context.Context) (string, error) {
	if k.cfg.ID != "" {
		return k.cfg.ID, nil
	}
	if s := k.server.Load(); s != nil {
		return s.clusterID, nil
	}
	if err := k.learn(ctx); err != nil {
		return "", err
	}
	return k.server.Load().clusterID, nil
}

// hasNamespaces is true for Vault Enterprise, and for OpenBao since 2.3. The free
// Vault ignores the header that asks for one.
func (h *health) hasNamespaces() bool {
	if h.Enterprise != nil {
		return *h.Enterprise
	}
	if _, edition, ok := strings.Cut(h.Version, "+"); ok {
		return strings.HasPrefix(edition, "ent") || strings.HasPrefix(edition, "prem") || strings.HasPrefix(edition, "pro")
	}
	major, minor, ok := h.release()
	return ok && (major == 2 && minor >= 3 || major > 2)
}

// hasAssociatedData is true for Vault since 1.13 and for OpenBao. A version that
// the server's administrator hides is at least 1.16.
func (h *health) hasAssociatedData() bool {
	if h.Version == "" {
		return true
	}
	major, minor, ok := h.release()
	return ok && (major == 1 && minor >= 13 || major > 1)
}

// release is the first two numbers of the version.
func (h *health) release() (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(h.Version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	return major, minor, err1 == nil && err2 == nil
}
