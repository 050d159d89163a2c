package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"aliquot.example/internal/dispatch"
)

// proxies are the gateway and its strongest peers. Each gets the hardware's weights.
var proxies = []proxy{
	{"aliquot", product(dispatch.Policy{Mode: dispatch.Tokens}), gatewayTokens},
	{"aliquot-slo", product(objective), gatewayObjective},
	{"aliquot-slots", product(dispatch.Policy{Mode: dispatch.Slots}), gatewaySlots},
	{"haproxy", peer(weightedLeast), haproxy},
	{"nginx", peer(weightedLeast), nginx},
}

const gatewayHead = `access_log = "off"
listen {
  address = %q
}
admin {
  address = "127.0.0.1:0"
}
drain {
  delay = "0s"
}
service "bench" {
  queue {
    max_wait = "1h"
  }
`

func gatewaySlots(b *wireBench, listen string, servers []server) ([]string, error) {
	return gatewayIn(b, listen, servers, "", func(s server) int { return slotsOf[s.class] })
}

func gatewayTokens(b *wireBench, listen string, servers []server) ([]string, error) {
	return gatewayIn(b, listen, servers, "  policy = \"tokens\"\n", func(s server) int { return s.maxSeqs })
}

func gatewayObjective(b *wireBench, listen string, servers []server) ([]string, error) {
	const block = "  policy = \"tokens\"\n  slo {\n    ttft = \"2s\"\n    tpot = \"100ms\"\n  }\n"
	return gatewayIn(b, listen, servers, block, func(s server) int { return s.maxSeqs })
}

func gatewayIn(b *wireBench, listen string, servers []server, settings string,
	slots func(server) int) ([]string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, gatewayHead+settings, listen)
	for _, s := range servers {
		class, _ := named(s.class)
		fmt.Fprintf(&text, "  replica {\n    address = %q\n    class   = %q\n    weight  = %g\n    slots   = %d\n  }\n",
			s.address, class, s.weight, slots(s))
	}
	text.WriteString("}\n")
	path, err := b.write("gateway.hcl", text.String())
	return []string{b.aliquot, "gateway", "-config", path}, err
}

// percent is a weight as whole numbers, which the peers want.
func (s server) percent() int { return max(1, int(100*s.weight+0.5)) }

func haproxy(b *wireBench, listen string, servers []server) ([]string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, `global
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  option http-keep-alive
  option http-no-delay
  http-reuse always
frontend in
  bind %s
  default_backend out
backend out
  balance leastconn
`, listen)
	for i, s := range servers {
		fmt.Fprintf(&text, "  server s%d %s weight %d\n", i, s.address, min(256, s.percent()))
	}
	path, err := b.write("haproxy.cfg", text.String())
	return []string{"haproxy", "-db", "-q", "-f", path}, err
}

func nginx(b *wireBench, listen string, servers []server) ([]string, error) {
	var text strings.Builder
	fmt.Fprintf(&text, `worker_processes 1;
daemon off;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log;
events { worker_connections 8000; }
http {
  access_log off;
  client_body_temp_path %[1]s;
  proxy_temp_path %[1]s;
  fastcgi_temp_path %[1]s;
  uwsgi_temp_path %[1]s;
  scgi_temp_path %[1]s;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  upstream fleet {
    least_conn;
`, b.dir)
	for _, s := range servers {
		fmt.Fprintf(&text, "    server %s weight=%d max_fails=0;\n", s.address, s.percent())
	}
	fmt.Fprintf(&text, `    keepalive 1024;
  }
  server {
    listen %s;
    location / {
      proxy_pass http://fleet;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 1h;
    }
  }
}
`, listen)
	path, err := b.write("nginx.conf", text.String())
	return []string{"nginx", "-c", path, "-e", filepath.Join(b.dir, "nginx.log")}, err
}
