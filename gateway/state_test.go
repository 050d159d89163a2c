package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/api"
)

type state struct{ api.Service }

func (s state) busy() int {
	n := 0
	for _, active := range s.Active {
		n += active
	}
	return n
}

// state asks the admin listener for one service.
func (r *running) state(t *testing.T, name string) state {
	t.Helper()
	var all []api.Service
	r.admin200(t, "/v1/services", &all)
	for _, s := range all {
		if s.Service == name {
			return state{s}
		}
	}
	t.Fatalf("no service %q", name)
	return state{}
}

// admin200 reads JSON from the admin listener.
func (r *running) admin200(t *testing.T, path string, into any) {
	t.Helper()
	res, err := http.Get(r.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatalf("%s: %s", path, res.Status)
	}
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// metric returns the value of the first metric whose line begins so, "" if none.
func (r *running) metric(t *testing.T, line string) string {
	t.Helper()
	res, err := http.Get(r.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// issue makes a certificate that signs itself.
func issue(t *testing.T) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	return encodePair(t, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private})
}

func encodePair(t *testing.T, c tls.Certificate) (cert, key []byte) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}
