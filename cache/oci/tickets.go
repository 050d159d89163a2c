package oci

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"aliquot.example/internal/cacheapi"
)

// TokenPath is where clients sign in.
const TokenPath = "/token"

// User is the user name for signing in with a ticket.
const User = "aliquot"

const (
	// tokenTTL is how long a sign-in is valid, and ticketTTL how long a ticket of the node's driver
	// can be used to sign in: as long as an image pull may take.
	tokenTTL  = time.Hour
	ticketTTL = 2 * time.Hour
)

// Tickets encrypts a client's identity into the token that the client sends, so that the cache need
// not store it. Another process cannot decrypt it.
type Tickets struct{ seal cipher.AEAD }

// asker identifies a client: by credentials for a registry, or as a task of a Nomad namespace for
// one repository. The zero value is an anonymous client.
type asker struct {
	token, namespace, name string
}

// sealed is the content of a token.
type sealed struct {
	Token, Namespace, Name string
	Until                  time.Time
}

// NewTickets returns Tickets with a new random key.
func NewTickets() *Tickets {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err) // unreachable: 32 bytes are a valid key
	}
	seal, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return &Tickets{seal}
}

// Issue returns the password of a task of a namespace for one repository.
func (t *Tickets) Issue(namespace, name string) string {
	return t.close(asker{namespace: namespace, name: name}, ticketTTL)
}

func (t *Tickets) close(who asker, d time.Duration) string {
	text, _ := json.Marshal(sealed{who.token, who.namespace, who.name, time.Now().Add(d)})
	return base64.RawURLEncoding.EncodeToString(t.seal.Seal(nil, nil, text, nil))
}

var errTicket = errors.New("the token is not from this cache or has expired: sign in again")

func (t *Tickets) open(text string) (asker, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return asker{}, errTicket
	}
	plain, err := t.seal.Open(nil, nil, raw, nil)
	if err != nil {
		return asker{}, errTicket
	}
	var s sealed
	if err := json.Unmarshal(plain, &s); err != nil || time.Now().After(s.Until) {
		return asker{}, errTicket
	}
	return asker{s.Token, s.Namespace, s.Name}, nil
}

// basic returns the asker for a user name and password.
func (t *Tickets) basic(r *http.Request) (asker, error) {
	user, password, ok := r.BasicAuth()
	switch {
	case !ok:
		return asker{}, nil
	case user == User:
		return t.open(password)
	}
	return asker{token: cacheapi.Login(user, password)}, nil
}

// bearer returns the asker of a request, and whether it has signed in.
func (t *Tickets) bearer(r *http.Request) (who asker, signed bool, err error) {
	header := r.Header.Get("Authorization")
	if token, ok := strings.CutPrefix(header, "Bearer "); ok {
		who, err = t.open(token)
		return who, err == nil, err
	}
	who, err = t.basic(r)
	return who, header != "" && err == nil, err
}

// serve signs a client in. It does not check registry credentials: the registry does, at the first
// request.
func (t *Tickets) serve(w http.ResponseWriter, r *http.Request) {
	who, err := t.basic(r)
	if err != nil {
		fail(w, r, http.StatusUnauthorized, "UNAUTHORIZED", err.Error())
		return
	}
	token := t.close(who, tokenTTL)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token,
		"expires_in": int(tokenTTL.Seconds())})
}
