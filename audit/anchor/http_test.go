package anchor_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/audit/anchor"
)

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The server gets the signed note itself, with the token that the file then holds.
func TestHTTP(t *testing.T) {
	var tokens []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(body, checkpoint().Note) || r.Method != http.MethodPost || r.URL.Path != "/heads/n1" ||
			r.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s %s %v: %q", r.Method, r.URL, r.Header, body)
		}
		tokens = append(tokens, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusCreated)
	}))
	defer server.Close()
	ca := file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	token := file(t, "first\n")
	h := &anchor.HTTP{URL: server.URL + "/heads/n1", TokenFile: token, CAFile: ca}
	for _, text := range []string{"first\n", "second"} {
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if by, err := h.Put(t.Context(), checkpoint()); err != nil || by != (anchor.Keeper{}) {
			t.Fatalf("%+v, %v", by, err)
		}
	}
	h.TokenFile = ""
	if _, err := h.Put(t.Context(), checkpoint()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tokens, ","); got != "Bearer first,Bearer second," {
		t.Errorf("tokens %s", got)
	}
}

// Whatever is not a plain yes is a failure, and no error repeats the token.
func TestHTTPFails(t *testing.T) {
	const secret = "very-secret"
	elsewhere := false
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				elsewhere = true
				return
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		handler  http.HandlerFunc
		token    string
		ca       string
		tls      bool
		mentions string
	}{
		"refused":   {handler: answer(http.StatusForbidden, secret), mentions: "403"},
		"redirect":  {handler: answer(http.StatusTemporaryRedirect, ""), mentions: "307"},
		"see other": {handler: answer(http.StatusSeeOther, ""), mentions: "303"},
		"broken answer": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = io.WriteString(w, "x")
		}, mentions: "broke off"},
		"unknown CA":     {handler: answer(http.StatusOK, ""), tls: true, mentions: "certificate"},
		"no CA":          {handler: answer(http.StatusOK, ""), tls: true, ca: "not PEM", mentions: "no certificate"},
		"empty token":    {handler: answer(http.StatusOK, ""), token: "\n", mentions: "no token"},
		"two tokens":     {handler: answer(http.StatusOK, ""), token: secret + "\n" + secret, mentions: "no token"},
		"token in UTF-8": {handler: answer(http.StatusOK, ""), token: secret + "é", mentions: "no token"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(c.handler)
			server.Config.ErrorLog = log.New(io.Discard, "", 0) // what a refused handshake is to the server
			if c.tls {
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			if c.token == "" {
				c.token = secret
			}
			h := &anchor.HTTP{URL: server.URL, TokenFile: file(t, c.token)}
			if c.ca != "" {
				h.CAFile = file(t, c.ca)
			}
			_, err := h.Put(t.Context(), checkpoint())
			if err == nil || !strings.Contains(err.Error(), c.mentions) || strings.Contains(err.Error(), secret) {
				t.Errorf("%v", err)
			}
		})
	}
	if elsewhere {
		t.Error("a redirect was followed")
	}
	t.Run("no token file", func(t *testing.T) {
		h := &anchor.HTTP{URL: "http://127.0.0.1:1", TokenFile: filepath.Join(t.TempDir(), "none")}
		if _, err := h.Put(t.Context(), checkpoint()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
}

// A server that sends without end is not read without end, and one that sends nothing
// is waited for until ctx ends.
func TestHTTPBounds(t *testing.T) {
	endless := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for block := make([]byte, 1<<16); r.Context().Err() == nil; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	}))
	defer endless.Close()
	if _, err := (&anchor.HTTP{URL: endless.URL}).Put(t.Context(), checkpoint()); err != nil {
		t.Error(err)
	}
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see that the client has gone
		<-r.Context().Done()
	}))
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := (&anchor.HTTP{URL: silent.URL}).Put(ctx, checkpoint()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}
