package sigv4

import "strings"

// canonicalHead returns the canonical request up to the hash of the body, from which
// it is the client's list that says which headers are in it, and the list itself.
func canonicalHead(r Request, h headers, signedHeaders string) (head []byte, names []string, refused *Error) {
	names, refused = signedNames(signedHeaders)
	if refused != nil {
		return nil, nil, refused
	}
	path, refused := canonicalPath(r.RequestURI)
	if refused != nil {
		return nil, nil, refused
	}
	head = make([]byte, 0, 1<<10)
	head = append(head, r.Method...)
	head = append(head, '\n')
	head = append(head, path...)
	head = append(head, "\n\n"...) // the query is empty
	room := maxSignedValues
	for _, name := range names {
		values := h[name]
		if name == "host" {
			values = []string{r.Host}
		}
		if len(values) == 0 {
			return nil, nil, refuse(Malformed, "the header %s is in SignedHeaders, and not in the request", quoted(name))
		}
		head = append(head, name...)
		for i, value := range values {
			separator := byte(',')
			if i == 0 {
				separator = ':'
			}
			if room -= len(value) + 1; room < 0 {
				return nil, nil, refuse(Malformed, "the signed headers have more than %d bytes", maxSignedValues)
			}
			if hasControl(value) {
				return nil, nil, refuse(Malformed, "the signed header %s has a tab or another control character in it", quoted(name))
			}
			head = append(head, separator)
			head = appendCollapsed(head, value)
		}
		head = append(head, '\n')
	}
	head = append(head, '\n')
	head = append(head, signedHeaders...)
	return append(head, '\n'), names, nil
}

// signedNames splits a SignedHeaders list and demands the one order that clients sign
// in, so that a list has one spelling.
func signedNames(list string) ([]string, *Error) {
	if strings.Count(list, ";") >= maxSignedHeaders {
		return nil, refuse(Malformed, "SignedHeaders has more than %d names", maxSignedHeaders)
	}
	names := strings.Split(list, ";")
	host := false
	for i, name := range names {
		if lower, ok := lowerToken(name); !ok || lower != name {
			return nil, refuse(Malformed, "SignedHeaders has a name that is not a header's in lower case")
		}
		if i > 0 && names[i-1] >= name {
			return nil, refuse(Malformed, "SignedHeaders is not sorted, or has %s twice", quoted(name))
		}
		if name == "authorization" {
			return nil, refuse(Malformed, "SignedHeaders has authorization, which cannot sign itself")
		}
		host = host || name == "host"
	}
	if !host {
		return nil, refuse(Malformed, "the host header is not signed")
	}
	return names, nil
}

// canonicalPath returns the path, escaped once more. It takes only paths for which all
// clients do the same (see the package comment).
func canonicalPath(path string) (string, *Error) {
	if !strings.HasPrefix(path, "/") {
		return "", refuse(Malformed, "the request's target does not begin with a slash")
	}
	for i := range len(path) {
		if c := path[i]; !alphanumeric(c) && !strings.ContainsRune("-._~/%", rune(c)) {
			return "", refuse(Malformed, "the path has a character that clients escape in different ways: use an endpoint without a path, or with letters, digits and -._~/ alone")
		}
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "." || segment == ".." {
			return "", refuse(Malformed, "the path has a dot segment, which some clients sign without: use an endpoint without it")
		}
	}
	if strings.Contains(path, "//") {
		return "", refuse(Malformed, "the path has an empty segment, which some clients sign without: use an endpoint without it")
	}
	return strings.ReplaceAll(path, "%", "%25"), nil
}

func hasControl(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// appendCollapsed appends s without spaces at its ends and with one for each run inside.
func appendCollapsed(dst []byte, s string) []byte {
	s = strings.Trim(s, " ")
	for i := range len(s) {
		if s[i] == ' ' && s[i-1] == ' ' { // s[0] is no space
			continue
		}
		dst = append(dst, s[i])
	}
	return dst
}
