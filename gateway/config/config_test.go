package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/dispatch"
)

const full = `
access_log = "off"
log_level  = "warn"
priorities = ["interactive", "batch"]

listen {
  address         = ":8443"
  max_connections = 100
  max_header      = "16KiB"
  max_body        = "10MiB"
  header_timeout  = "5s"
  idle_timeout    = "1m"
  body_timeout    = "10s"
  write_timeout   = "20s"
  tls {
    cert_file = "cert.pem"
    key_file  = "key.pem"
  }
}

admin {
  address = "127.0.0.1:9090"
}

drain {
  delay   = "2s"
  timeout = "1m"
}

consul {
  address    = "127.0.0.1:8500"
  token_file = "consul-token"
  register   = true
}

nomad {
  address = env.TEST_NOMAD
}

tenants {
  header  = "X-Tenant"
  api_key = true
  tenant "acme" {
    key_sha256 = ["2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"]
    weight     = 2.5
    max_active = 8
    max_queue  = 100
    priority   = "batch"
  }
  tenant "default" {
    max_queue = 10
  }
}

service "llama" {
  route {
    hosts       = ["Models.Example.org"]
    path_prefix = "/v1"
    headers     = { X-Team = "a" }
    models      = ["llama-3"]
  }
  consul {
    service = "vllm-llama"
    tag     = "prod"
  }
  queue {
    max              = 500
    max_wait         = "90s"
    theta            = "1.5"
    default_priority = "interactive"
    eject_failures   = 3
    eject_time       = "2s"
    eject_time_max   = "30s"
  }
  upstream {
    protocol        = "h2c"
    connect_timeout = "500ms"
    header_timeout  = "5m"
    retries         = 1
  }
  rule {
    min_prompt_tokens = 4000
    require           = ["h100"]
  }
  wake {
    interval = "10s"
    target {
      job   = "big"
      group = "server"
      class = "h100"
      cost  = 4
    }
    target {
      job   = "small"
      group = "server"
      class = "t4"
      cost  = 1
    }
  }
}

service "other" {
  replica {
    address = "10.0.0.1:80"
    class   = "l4"
    slots   = 4
    slices  = 2
    weight  = 0.5
  }
}
`

func TestEverySettingArrives(t *testing.T) {
	t.Setenv("TEST_NOMAD", "http://nomad:4646")
	c, err := Parse([]byte(full), "gateway.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if l := c.Listen; l.MaxHeaderBytes != 16<<10 || l.MaxBodyBytes != 10<<20 || l.CertFile != "cert.pem" || l.WriteTimeout != 20*time.Second || l.MaxConnections != 100 {
		t.Errorf("listen %+v", l)
	}
	if c.Nomad.Address != "http://nomad:4646" || c.Consul.Token.File != "consul-token" || !c.Consul.Register || c.Drain.Timeout != time.Minute {
		t.Errorf("%+v %+v %+v", c.Nomad, c.Consul, c.Drain)
	}
	acme := c.Tenants.Limits["acme"]
	if acme != (dispatch.Limits{Weight: 2.5, MaxActive: 8, MaxQueue: 100}) || c.Tenants.Ceiling["acme"] != 1 || c.Tenants.Limits[""].MaxQueue != 10 || len(c.Tenants.Keys) != 1 {
		t.Errorf("tenants %+v", c.Tenants)
	}
	s := c.Services[0]
	if r := s.Routes[0]; r.Hosts[0] != "models.example.org" || r.PathPrefix != "/v1" || r.Headers["X-Team"] != "a" || r.Models[0] != "llama-3" {
		t.Errorf("route %+v", r)
	}
	if s.Source.Consul.Service != "vllm-llama" || s.Source.Consul.Tag != "prod" || s.Queue.Theta != 1.5 || s.Queue.MaxWait != 90*time.Second || s.Queue.DefaultPriority != 0 || s.Queue.Eject.Failures != 3 || s.Queue.Eject.Max != 30*time.Second {
		t.Errorf("service %+v", s)
	}
	if s.Upstream.Protocol != "h2c" || s.Upstream.Retries != 1 || s.Rules[0].MinPrompt != 4000 || s.Rules[0].Placement.Require[0] != "h100" {
		t.Errorf("service %+v", s)
	}
	if w := s.Wake; w.Interval != 10*time.Second || w.Targets[0].Job != "small" || w.Targets[1].Cost != 4 {
		t.Errorf("wake %+v, want the cheapest first", w)
	}
	if r := c.Services[1].Source.Static[0]; r != (Replica{Address: "10.0.0.1:80", Class: "l4", Slots: 4, Slices: 2, Weight: 0.5}) {
		t.Errorf("replica %+v", r)
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse([]byte("service \"m\" {\n  consul {}\n}\n"), "gateway.hcl")
	if err != nil {
		t.Fatal(err)
	}
	s := c.Services[0]
	if c.Listen.Address != ":8080" || c.Consul == nil || s.Source.Consul.Service != "m" || s.Queue.MaxWait != time.Minute || s.Queue.Max != 10000 || len(s.Routes) != 1 || s.Upstream.Retries != 2 {
		t.Errorf("%+v", c)
	}
}

func TestMistakesAreToldInOneLineWithTheirPlace(t *testing.T) {
	const replica = "  replica {\n    address = \"a:1\"\n  }\n"
	for _, c := range []struct{ text, want string }{
		{"", "gateway.hcl:1: no service block"},
		{"service \"m\" {\n", "gateway.hcl:1: "},
		{"colour = \"red\"\n", "gateway.hcl:1: Unsupported argument: An argument named \"colour\""},
		{"service \"m\" {\n}\n", "gateway.hcl:1: service \"m\" has 0 sources of replicas"},
		{"service \"m\" {\n  consul {}\n" + replica + "}\n", "has 2 sources"},
		{"service \"m\" {\n" + replica + "  queue {\n    max_wait = \"soon\"\n  }\n}\n", "gateway.hcl:6: max_wait is \"soon\": want a duration"},
		{"service \"m\" {\n" + replica + "  queue {\n    theta = \"-1\"\n  }\n}\n", "gateway.hcl:6: theta is \"-1\""},
		{"service \"m\" {\n" + replica + "  queue {\n    default_priority = \"high\"\n  }\n}\n", "gateway.hcl:6: default_priority is \"high\": want one of normal"},
		{"service \"m\" {\n" + replica + "  upstream {\n    protocol = \"spdy\"\n  }\n}\n", "gateway.hcl:6: protocol is \"spdy\": want one of auto, http1, h2c, https"},
		{"service \"m\" {\n  replica {\n    address = \"nowhere\"\n  }\n}\n", "gateway.hcl:3: address is \"nowhere\": want \"host:port\""},
		{"service \"m\" {\n  replica {\n    slots = 1\n  }\n}\n", "gateway.hcl:1: replica without address"},
		{"service \"m\" {\n  replica {\n    address = \"a:1\"\n    slots = 0\n  }\n}\n", "slots and slices must be at least 1"},
		{"service \"m\" {\n" + replica + "  rule {\n    min_batch = 2\n  }\n}\n", "gateway.hcl:5: rule without require or prefer"},
		{"service \"m\" {\n" + replica + "  wake {}\n}\n", "gateway.hcl:5: wake block without a target"},
		{"service \"m\" {\n" + replica + "}\nservice \"m\" {\n" + replica + "}\n", "gateway.hcl:6: service \"m\" is defined twice"},
		{"service \"m\" {\n" + replica + "  route {\n    path_prefix = \"v1\"\n  }\n}\n", "path_prefix \"v1\" does not begin with /"},
		{"listen {\n  address = \":1\"\n  max_body = \"1 pound\"\n}\n", "gateway.hcl:3: max_body is \"1 pound\": want a number of bytes"},
		{"service \"m\" {\n" + replica + "  fallback = \"n\"\n}\n", "service \"m\": fallback to \"n\": want the name of a service block"},
		{"service \"m\" {\n" + replica + "  fallback = \"n\"\n}\nservice \"n\" {\n" + replica + "  fallback = \"m\"\n}\n", "service \"m\": its fallbacks form a loop through \"m\""},
		{"service \"m\" {\n" + replica + "  split {\n    to = \"m\"\n    percent = 5\n  }\n}\n", "gateway.hcl:5: service \"m\": split to \"m\": want the name of another service block"},
		{"service \"m\" {\n" + replica + "  split {\n    to = \"n\"\n    percent = 101\n  }\n}\nservice \"n\" {\n" + replica + "}\n", "service \"m\": percent is 101"},
		{"service \"m\" {\n" + replica + "  slo {\n    ttft = \"2s\"\n    quantile = 99\n  }\n}\n", "gateway.hcl:1: service \"m\": quantile is 99: want 0.5 to 0.9999"},
		{"service \"m\" {\n" + replica + "  policy = \"fast\"\n}\n", "gateway.hcl:5: policy is \"fast\": want one of slots, tokens"},
		{"service \"m\" {\n" + replica + "  engine {\n    metrics = \"metrics\"\n  }\n}\n", "gateway.hcl:6: metrics is \"metrics\": want \"auto\", \"off\" or a path"},
		{"service \"m\" {\n" + replica + "  engine {\n    interval = \"1ms\"\n  }\n}\n", "gateway.hcl:6: interval is 1ms: want at least"},
		{"tenants {\n  tenant \"a\" {\n    tokens_per_minute = -1\n  }\n}\n", "gateway.hcl:2: tenant \"a\": tokens_per_minute is -1"},
		{"tenants {\n  tenant \"a\" {\n    key_sha256 = [\"secret\"]\n  }\n}\n", "gateway.hcl:2: tenant \"a\": key_sha256"},
		{"service \"m\" {\n  replica {\n    address = \"a:0\"\n  }\n}\n", "gateway.hcl:3: address is \"a:0\""},
		{"service \"m\" {\n  replica {\n    address = \"a:99999\"\n  }\n}\n", "gateway.hcl:3: address is \"a:99999\""},
		{"listen {\n  address = \":99999\"\n}\n", "gateway.hcl:1: address is \":99999\""},
		{"listen {\n  address = \":80\"\n  max_streams = 0\n}\n", "gateway.hcl:1: max_connections is 16384 and max_streams 0"},
		{"listen {\n  address = \":80\"\n}\nadmin {\n  address = \":80\"\n}\n", "gateway.hcl:4: the admin address :80 is also the address"},
		{"priorities = [\"a\", \"b\", \"a\"]\n", "gateway.hcl:1: priorities has \"a\", which is empty or a duplicate"},
		{"service \"m\" {\n" + replica + "  queue {\n    theta = \"NaN\"\n  }\n}\n", "gateway.hcl:6: theta is \"NaN\""},
		{"service \"m\" {\n" + replica + "  queue {\n    theta = \"1.5x\"\n  }\n}\n", "gateway.hcl:6: theta is \"1.5x\""},
		{"service \"m\" {\n" + replica + "  upstream {\n    retries = -1\n  }\n}\n", "gateway.hcl:1: service \"m\": retries is -1"},
		{"service \"m\" {\n" + replica + "  queue {\n    send_ahead = -1\n  }\n}\n", "gateway.hcl:1: service \"m\": send_ahead is -1"},
		{"service \"m\" {\n" + replica + "  policy = \"tokens\"\n  queue {\n    send_ahead = 1\n  }\n}\n", "gateway.hcl:1: service \"m\": send_ahead is for policy = \"slots\""},
		{"service \"m\" {\n" + replica + "  queue {\n    max = 0\n  }\n}\n", "gateway.hcl:1: service \"m\": max is 0"},
		{"service \"m\" {\n" + replica + "  route {\n    hosts = [\"*\"]\n  }\n}\n", "gateway.hcl:1: service \"m\": hosts has \"*\""},
		{"service \"m\" {\n" + replica + "}\nservice \"n\" {\n" + replica + "}\n", "gateway.hcl:6: service \"n\": no request can reach it, because the earlier service \"m\""},
		{"tenants {\n  tenant \"a\" {\n    weight = -1\n  }\n}\n", "gateway.hcl:2: tenant \"a\": weight"},
		{"tenants {\n  tenant \"a\" {\n    key_sha256 = [\"" + strings.Repeat("a", 64) + "\"]\n  }\n  tenant \"b\" {\n    key_sha256 = [\"" + strings.Repeat("a", 64) + "\"]\n  }\n}\n", "gateway.hcl:5: tenant \"b\": tenant \"a\" has the same key in key_sha256"},
		{"listen {\n  address = \":1\"\n  trusted_proxies = [\"everyone\"]\n}\n", "gateway.hcl:3: trusted_proxies has \"everyone\""},
		{"listen {\n  address = env.NOT_THERE_AT_ALL\n}\n", "gateway.hcl:2: "},
	} {
		_, err := Parse([]byte(c.text), "gateway.hcl")
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q\n says %v\n want %s", c.text, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the message tells a secret: %v", err)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.hcl")); err == nil || !strings.Contains(err.Error(), "none.hcl") {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestASecretIsReadAnew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	s := Secret{File: path, Env: "TEST_TOKEN"}
	if _, err := s.Read(); err == nil {
		t.Error("a file that is not there gives a token")
	}
	for _, token := range []string{"one", "two"} {
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Read(); err != nil || got != token {
			t.Errorf("%q, %v", got, err)
		}
	}
	t.Setenv("TEST_TOKEN", "env")
	if got, _ := (Secret{Env: "TEST_TOKEN"}).Read(); got != "env" {
		t.Errorf("%q from the environment", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(full)
	f.Add("service \"m\" {\n  replica {\n    address = \"a:1\"\n  }\n}\n")
	f.Add("service \"m\" { consul {} }")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse([]byte(text), "gateway.hcl")
		if err == nil && len(c.Services) == 0 {
			t.Fatal("a configuration without services is taken")
		}
		if err != nil && !strings.HasPrefix(err.Error(), "gateway.hcl:") {
			t.Fatalf("an error without its place: %v", err)
		}
	})
}

// Every example in the documentation is a valid configuration.
func TestDocumentedExamplesAreConfigurations(t *testing.T) {
	text, err := os.ReadFile("../../docs/gateway.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, block := range strings.Split(string(text), "```hcl\n")[1:] {
		example, _, _ := strings.Cut(block, "```")
		found++
		if _, err := Parse([]byte(example), "docs/gateway.md"); err != nil {
			t.Errorf("%v\n%s", err, example)
		}
	}
	if found == 0 {
		t.Error("docs/gateway.md has no example")
	}
}

// A missing replicas file fails Check, not the start, because it may be written later.
func TestTheCheckLooksAtReplicasFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "replicas.hcl")
	c, err := Parse([]byte("service \"m\" {\n  replicas_file = \""+path+"\"\n}\n"), "gateway.hcl")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a missing file: %v", err)
	}
	if err := os.WriteFile(path, []byte("replica {\n  address = \"127.0.0.1:1\"\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(); err != nil {
		t.Error(err)
	}
}
