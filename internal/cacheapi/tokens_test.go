package cacheapi

import "testing"

func TestTokens(t *testing.T) {
	if user, password, ok := ParseLogin(Login("u", "a:b\n")); !ok || user != "u" || password != "a:b\n" {
		t.Errorf("a login is read as %q %q, %v", user, password, ok)
	}
	keys := S3Keys{"http://127.0.0.1:9000", "AK", "s/+=", "t=="}
	if got, ok := ParseKeys(keys.Token()); !ok || got != keys {
		t.Errorf("keys are read as %+v, %v", got, ok)
	}
	for _, token := range []string{"", "hf_abc", "\x00", "aws:", "aws:*", "basic:", Login("u", "p")} {
		if _, ok := ParseKeys(token); ok {
			t.Errorf("%q is read as keys", token)
		}
	}
	for _, token := range []string{"", "hf_abc", "\x00", "basic:*", "basic:", keys.Token()} {
		if _, _, ok := ParseLogin(token); ok {
			t.Errorf("%q is read as a login", token)
		}
	}
}
