package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestDoctorNamesTheSettingOfAnAgentBehindTLS(t *testing.T) {
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	secure.Config.ErrorLog = nil
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for address, want := range map[string]string{
		secure.URL: "NOMAD_CACERT",
		strings.Replace(plain.URL, "http:", "https:", 1): "http:// into NOMAD_ADDR",
		"http://127.0.0.1:1":                             "NOMAD_TOKEN",
	} {
		t.Setenv("NOMAD_ADDR", address)
		if _, err := examine(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a word of %s", address, err, want)
		}
	}
}
