package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"aliquot.example/e2e/cluster"
	"aliquot.example/e2e/rack"
)

// TestPrometheusJob submits Prometheus's job beside the programs that it scrapes. The image is the
// stand-in e2e/scraper, because no Prometheus with Consul discovery is available here: Debian's is
// built without it. The stand-in accepts what the job renders, rejects what it does not know, and
// answers as Prometheus does.
func TestPrometheusJob(t *testing.T) {
	// A node with GPUs of two vendors has two plugins, each with its own port.
	nvidia, amd := freeAddress(t), freeAddress(t)
	const metrics = "metrics_address = %q"
	// The rack's AMD GPUs show no task processes, so the app must use NVIDIA's.
	const elsewhere = "\ngpu \"*\" { slices = 10 }\n"
	ctx, c := start(t, cluster.Options{
		Rack: "h100-t4", Device: fmt.Sprintf(metrics, nvidia),
		AMD: &cluster.AMD{GPUs: rack.AMDHost(rack.MI210, 1, "", ""), Release: "26.5", Device: fmt.Sprintf(metrics, amd) + elsewhere},
	})
	consul := strings.TrimPrefix(c.ConsulAddress, "http://")
	g := startGateway(ctx, t, c, chatService)
	run(ctx, t, c, "jobs/router.nomad.hcl", cluster.Vars{"driver": "raw_exec", "consul": consul, "count": 1}, 1)
	run(ctx, t, c, httpJob, appVars(c, 1), 1)
	for range 20 { // enough for the gateway to learn a rate
		if status, body, err := g.ask(ctx); err != nil || status != 200 {
			t.Fatalf("%d %q %v", status, body, err)
		}
	}
	chat(ctx, t, g)
	image, err := c.ImportArchive(ctx, scraperImage(t, c), "prometheus", "/scraper")
	if err != nil {
		t.Fatal(err)
	}
	run(ctx, t, c, "jobs/prometheus.nomad.hcl", cluster.Vars{"image": image, "consul": consul, "device_ports": []int{portOf(t, nvidia), portOf(t, amd)}}, 1)
	p := prometheus("http://" + passing(ctx, t, c, "prometheus"))
	p.awaitTargets(ctx, t, "aliquot-gateway", "aliquot-router", "aliquot-devices http://"+nvidia+"/metrics", "aliquot-devices http://"+amd+"/metrics", "nomad-client")
	p.awaitMetrics(ctx, t, append(drawn(t), "nomad_client_allocs_running"))
}

// chatService serves the app's replicas as a language model, whose answers the gateway meters.
const chatService = `service "chat" {
  policy = "tokens"
  slo {
    ttft = "2s"
    tpot = "100ms"
  }
  consul {
    service = "app"
  }
  route {
    path_prefix = "/v1/chat"
  }
}`

// chat requests one streamed answer.
func chat(ctx context.Context, t *testing.T, g gatewayUnderTest) {
	t.Helper()
	const body = `{"model":"m","messages":[{"role":"user","content":"hello"}],"max_tokens":4,"stream":true,"stream_options":{"include_usage":true}}`
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.public+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || !strings.Contains(string(text), "[DONE]") {
		t.Fatalf("%d %q %v", res.StatusCode, text, err)
	}
}

// prometheus is the base of Prometheus's URLs.
type prometheus string

func (p prometheus) get(path string, into any) error {
	response, err := http.Get(string(p) + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	answer := struct{ Data any }{into}
	return json.NewDecoder(response.Body).Decode(&answer)
}

func portOf(t *testing.T, address string) int {
	t.Helper()
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		t.Fatal(err)
	}
	return int(a.Port())
}

// awaitTargets waits until at least one target of each job is found, or the one that follows the
// job's name, and until all targets answer.
func (p prometheus) awaitTargets(ctx context.Context, t *testing.T, jobs ...string) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 60*time.Second, "targets of Prometheus that are up", func() string {
		var found struct {
			ActiveTargets []struct {
				Labels                       map[string]string
				ScrapeURL, Health, LastError string
			}
		}
		if err := p.get("/api/v1/targets", &found); err != nil {
			return err.Error()
		}
		missing := slices.Clone(jobs)
		for _, target := range found.ActiveTargets {
			if target.Health != "up" || target.Labels["node"] == "" {
				return fmt.Sprintf("%s is %s: %s, labels %v", target.ScrapeURL, target.Health, target.LastError, target.Labels)
			}
			missing = slices.DeleteFunc(missing, func(job string) bool {
				return job == target.Labels["job"] || job == target.Labels["job"]+" "+target.ScrapeURL
			})
		}
		return strings.Join(missing, ", ")
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (p prometheus) awaitMetrics(ctx context.Context, t *testing.T, names []string) {
	t.Helper()
	err := cluster.AwaitWithin(ctx, 45*time.Second, "the metrics that the dashboard draws", func() string {
		var known []string
		if err := p.get("/api/v1/label/__name__/values", &known); err != nil {
			return err.Error()
		}
		missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(known, name) })
		return strings.Join(missing, ", ")
	})
	if err != nil {
		t.Error(err)
	}
}

// drawn lists the metrics in the dashboard's queries.
func drawn(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../jobs/grafana-dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\baliquot_[a-z_]+`).FindAllString(string(text), -1)
	slices.Sort(names)
	if names = slices.Compact(names); len(names) < 10 {
		t.Fatalf("the dashboard names only %v", names)
	}
	return names
}

// scraperImage packs the stand-in, which needs no libraries.
func scraperImage(t *testing.T, c *cluster.Cluster) io.Reader {
	t.Helper()
	body, err := os.ReadFile(c.Program("e2e/scraper"))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "scraper", Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &archive
}
