package config

import (
	"reflect"
	"strings"
	"testing"

	"aliquot.example/internal/reference"
)

// peers is what a peer block needs.
const peers = "advertise = \"10.0.0.1:7482\"\ninsecure = true\n"

// docs/configuration.md lists every key, and writing its default changes nothing.
func TestTheReferenceIsThatOfTheCache(t *testing.T) {
	schema := reflect.TypeFor[fileBody]()
	for key, setting := range reference.Compare(t, "Cache", reference.Keys(schema)) {
		if setting.Default == "" {
			continue
		}
		beside := map[string]string{"peer": peers, "s3": "namespaces = [\"*\"]\n"}
		if key == "peer.insecure" {
			beside["peer"] = "advertise = \"10.0.0.1:7482\"\nca_file = \"a\"\ncert_file = \"b\"\nkey_file = \"c\"\n"
		}
		with, err := Parse([]byte(reference.Write(schema, key, setting.Default, beside)), "reference.hcl")
		if err != nil {
			t.Error(err)
			continue
		}
		without, err := Parse([]byte(reference.Write(schema, key, "", beside)), "reference.hcl")
		if err != nil || !reflect.DeepEqual(with, without) {
			t.Errorf("%s = %s is not the default: %+v and %+v, %v", key, setting.Default, with, without, err)
		}
	}
}

// What is wrong is said in one line that names file, key and remedy.
func TestWrongSettings(t *testing.T) {
	for text, want := range map[string]string{
		`log_level = "loud"`:                         `x.hcl: log_level is "loud": want debug, info, warn or error`,
		`dir = "here"`:                               `dir is "here": want an absolute path`,
		`dir = ""`:                                   `dir is "": want an absolute path`,
		`capacity = "5GB"`:                           `capacity: "5GB": want a number of bytes such as "500GiB"`,
		`keep_free = "-1"`:                           `keep_free: "-1"`,
		`origin_rate = "9000000TiB"`:                 `origin_rate: "9000000TiB"`,
		`hf_listen = "7480"`:                         `hf_listen is "7480": want host:port`,
		`huggingface { endpoint = "hub" }`:           `huggingface.endpoint is "hub": want a URL`,
		`peer {}`:                                    `peer.advertise is ":7482": want the host:port`,
		`peer { advertise = "0.0.0.0:1" }`:           `peer.advertise is "0.0.0.0:1"`,
		`peer { advertise = "a:1" }`:                 `peer needs ca_file, cert_file and key_file`,
		"peer {\n" + peers + "ca_file = \"x\"\n}":    `peer.insecure cannot be combined with ca_file, cert_file or key_file`,
		"peer {\n" + peers + "known = [\"node\"]\n}": `peer.known has "node": want host:port`,
		`socket = 5 +`:                               `x.hcl:1: `,
		"s3 \"a\" {\nanonymous = true\nbuckets = [\"x\", \"m\"]\n}\ns3 \"b\" {\nanonymous = true\nbuckets = [\"m\"]\n}":                      `x.hcl: bucket "m" is in s3 "a" and in s3 "b": list it in one of them`,
		"s3 {\nanonymous = true\nbuckets = [\"m\", \"m\"]\n}":                                                                                `bucket "m" is in s3 and in s3`,
		"s3 \"a\" {\nanonymous = true\n}\ns3 {\nanonymous = true\n}":                                                                         `s3 "a" and s3 both have no buckets`,
		"s3 \"a\" {\nanonymous = true\n}\ns3 \"a\" {\nanonymous = true\n}":                                                                   `there are two s3 "a" blocks: give each its own label`,
		"s3 \"a\" {\nanonymous = true\nbuckets = [\"m/x\"]\n}":                                                                               `s3.a.buckets has "m/x": want bucket names`,
		"s3 {\nanonymous = true\nbuckets = []\n}":                                                                                            `s3.buckets is empty: list the server's buckets`,
		"s3 \"a\" {\nnamespaces = [\"*\"]\nbuckets = [\"m\"]\n}\ns3 \"b\" {\nnamespaces = [\"*\"]\nendpoint = \"https://minio.internal\"\n}": `s3 "a" and s3 "b" are different servers without credentials_file`,
		`s3 "a" "b" {}`:          `x.hcl:1: `,
		`s3 {}`:                  `s3.namespaces is missing: name the Nomad namespaces`,
		`s3 { endpoint = "s3" }`: `s3.endpoint is "s3": want a URL without a path`,
		"s3 {\nanonymous = true\nnamespaces = [\"a\"]\n}":         `s3.anonymous cannot be combined with credentials_file or namespaces`,
		"s3 {\nnamespaces = [\"\"]\n}":                            `s3.namespaces has an empty name`,
		"s3 {\ncredentials_file = \"x\"\nnamespaces = [\"a\"]\n}": `s3.credentials_file is "x": want an absolute path`,
		`s3_listen = "7483"`:                                      `s3_listen is "7483": want host:port`,
		`s3_domain = "127.0.0.1"`:                                 `s3_domain is "127.0.0.1": want a host name`,
		`s3_keys_file = "keys"`:                                   `s3_keys_file is "keys": want an absolute path`,
		`oci { auth_file = "/a" }`:                                `oci.namespaces is missing`,
		"oci {\nauth_file = \"a\"\nnamespaces = [\"b\"]\n}":       `oci.auth_file is "a": want an absolute path`,
		`oci { namespaces = ["a"] }`:                              `oci.namespaces has no effect`,
		`oci { plain_http = ["http://x"] }`:                       `oci.plain_http has "http://x": want a registry's host`,
		`unknown = 1`:                                             `x.hcl:1: Unsupported argument`,
	} {
		_, err := Parse([]byte(text), "x.hcl")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want %s", text, err, want)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "17": 17, "3KiB": 3 << 10, "2TiB": 2 << 40, "5 MiB": 5 << 20} {
		if got, err := Size(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
