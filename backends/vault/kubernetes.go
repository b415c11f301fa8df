package vault

import "context"

// kubernetesMethod logs in with the token of the pod's service account. It reads
// the token for each login: Kubernetes replaces it within the hour.
type kubernetesMethod struct {
	client      *client
	mount, role string
	jwtFile     string
}

func (m *kubernetesMethod) files() []string { return []string{m.jwtFile} }

func (m *kubernetesMethod) fixed() bool { return false }

func (m *kubernetesMethod) login(ctx context.Context) (grant, error) {
	jwt, err := readSecret(m.jwtFile)
	if err != nil {
		return grant{}, err
	}
	return m.client.login(ctx, m.mount, map[string]string{"role": m.role, "jwt": string(jwt)},
		"the service account's token in "+m.jwtFile+" for the role "+m.role)
}
