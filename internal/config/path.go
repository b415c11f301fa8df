package config

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
)

// path reads a path and makes it absolute.
func (b block) path(name string, dst *string) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	const want = "a path"
	s, ok := b.w.text(v, want)
	switch {
	case !ok:
	case strings.HasPrefix(s, "~"):
		b.w.problem(v, quote(s), "a path without ~, which only a shell knows")
	case strings.Contains(s, "$"):
		b.w.problem(v, quote(s), "a path without $: nothing is expanded here")
	default:
		*dst = b.w.absolute(s)
	}
}

// made reads the path of a file that the broker will make, and has Load look for
// its directory, which should have this mode.
func (b block) made(name string, dst *string, mode fs.FileMode) {
	b.path(name, dst)
	if v := b.fields[name]; *dst != "" {
		b.w.files = append(b.w.files, neededFile{path: *dst, use: parent, mode: mode, at: b.w.at(v.node, v.path, "", "")})
	}
}

// credentialsVariable is the directory in which systemd puts a unit's
// credentials (systemd.exec(5), LoadCredential=).
const credentialsVariable = "${CREDENTIALS_DIRECTORY}/"

// file reads the path of a file that the broker will read, and has Load look at
// its permissions.
func (b block) file(name string, dst *string, use fileUse) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	s, ok := b.w.text(v, "the path of a file")
	if !ok {
		return
	}
	if uuidForm.MatchString(s) {
		b.w.problem(v, "what looks like an id itself", "it in a file of mode 0600, and that file's path here")
		return
	}
	if rest, ok := strings.CutPrefix(s, credentialsVariable); ok && !strings.Contains(rest, "$") {
		if b.w.env.CredentialsDirectory == "" {
			b.w.problem(v, quote(s)+", but that variable is not set", "to be started by systemd with LoadCredential=, or a path without the variable")
			return
		}
		*dst = filepath.Join(b.w.env.CredentialsDirectory, rest)
	} else if strings.Contains(s, "$") || strings.HasPrefix(s, "~") {
		// It may be a password, so it is not repeated.
		b.w.problem(v, "text with $ in it or ~ at its beginning", "a path; nothing is expanded but ${CREDENTIALS_DIRECTORY}/ at its beginning")
		return
	} else {
		*dst = b.w.absolute(s)
	}
	b.w.need(v, *dst, use)
}

// need has Load look at a file. A relative path to a private one is perhaps not
// meant as a path.
func (w *walker) need(v value, path string, use fileUse) {
	doubtful := (use == private || use == secretKey || use == sealKey) && !strings.HasPrefix(v.node.Value, credentialsVariable) && !filepath.IsAbs(v.node.Value)
	w.files = append(w.files, neededFile{path: path, use: use, doubtful: doubtful, at: w.at(v.node, v.path, "", "")})
}

func (w *walker) absolute(path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(w.env.Dir, path)
}

// maxMountPath leaves room in a reference of an envelope (512 bytes) for Vault's
// id, a namespace, a mount and a key. A slash takes three bytes there.
const maxMountPath = 128

// mountPath reads a path inside Vault: no slash at its ends, nothing that could
// lead elsewhere.
func (b block) mountPath(name string, dst *string) {
	v, ok := b.fields[name]
	if !ok {
		return
	}
	want := fmt.Sprintf("a path in Vault such as %q: letters, digits, dots, underscores, hyphens, and single slashes within", *dst)
	if *dst == "" {
		want = `a path in Vault such as "team/prod": letters, digits, dots, underscores, hyphens, and single slashes within`
	}
	s, ok := b.w.text(v, want)
	if !ok {
		return
	}
	if n := len(s) + 2*strings.Count(s, "/"); n > maxMountPath {
		b.w.problem(v, fmt.Sprintf("a path of %d bytes, with three for a slash", n), fmt.Sprintf("at most %d", maxMountPath))
		return
	}
	for part := range strings.SplitSeq(s, "/") {
		if !vaultPart.MatchString(part) || part == "." || part == ".." {
			b.w.problem(v, quote(s), want)
			return
		}
	}
	*dst = s
}
