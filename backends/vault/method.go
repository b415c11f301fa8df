package vault

import "context"

// method is a way to log in. Its login is called by one goroutine at a time.
type method interface {
	// login returns a token. Its error is a failure: Unauthenticated if the
	// credential is missing, unusable or refused.
	login(ctx context.Context) (grant, error)
	// files are the credential's files.
	files() []string
	// fixed tells that a login gives the token that a file holds, so that another
	// login gives another token only if the file is changed.
	fixed() bool
}

// newMethod returns the method of a, which has been checked.
func newMethod(a Auth, c *client) method {
	switch a.Method {
	case MethodToken:
		return &tokenMethod{client: c, file: a.TokenFile}
	case MethodAppRole:
		return &appRoleMethod{client: c, mount: a.Mount, roleIDFile: a.RoleIDFile, secretIDFile: a.SecretIDFile, wrapped: a.SecretIDWrapped}
	default:
		return &kubernetesMethod{client: c, mount: a.Mount, role: a.Role, jwtFile: a.JWTFile}
	}
}
