package ui

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/api"
	"aliquot.example/internal/quantile"
	"aliquot.example/ui/browser"
	"aliquot.example/ui/wirefake"
)

// demo is a cluster of two nodes, one with a service on it.
func demo() *wirefake.Cluster {
	c := wirefake.Start()
	one := c.AddNode("rack-1", "nvidia", "h100", 2, 20)
	c.AddNode("rack-2", "amd", "mi300x", 2, 20)
	a := c.AddAlloc("chat", "h100", one, 0, 0, 5)
	c.Services = []api.Service{{Service: "chat", Queued: 3, Active: map[string]int{"h100": 2}, Replicas: []api.Replica{wirefake.ReplicaOf(a, "h100", 4)}}}
	c.Services[0].Waits = []api.Wait{{Priority: "interactive", Tenant: "acme", Requests: 2}, {Priority: "batch", Tenant: "other", Requests: 1}}
	c.Requests = api.Requests{
		Slow:   []api.Request{{Service: "chat", Began: time.Now(), Outcome: "served", Status: 200, Class: "h100", Replica: c.Services[0].Replicas[0].ID, Attempts: 1, Total: 900, Waited: 600, Upstream: 200, Answer: 100}},
		Failed: []api.Request{{Service: "chat", Began: time.Now(), Outcome: "queue_full", Status: 503, Priority: "batch", Total: 2, Received: 2}},
	}
	c.AddPolicy("chat", "h100", "concurrency service=chat", map[string]string{"class": "h100", "classes": "h100 slots=4 cost=6 max=4", "down_delay": "1m", "utilization": "1"})
	started := make([]string, 3)
	for i := range started {
		started[i] = fmt.Sprintf(`{"at":%q,"class":"h100","seconds":20}`, time.Now().UTC().Format(time.RFC3339))
	}
	c.KV["aliquot/coldstart/chat"] = []byte(`{"version":1,"samples":[` + strings.Join(started, ",") + `]}`)
	now := time.Now().Unix()
	for i := int64(600); i > -600; i-- {
		var took quantile.Sketch
		took.Add(0.1)
		took.Add(2.5)
		c.Latency["chat"] = append(c.Latency["chat"], api.Latency{Time: now - i, Total: took.Encode()})
		c.Series["chat"] = append(c.Series["chat"], api.Point{Time: now - i, Queued: float64((600 + i) % 7), Active: 2, Class: map[string]api.ClassPoint{"h100": {Active: 2}}})
	}
	return c
}

func start(t *testing.T) *browser.Browser {
	t.Helper()
	if why := browser.Missing(); why != "" {
		t.Skip(why)
	}
	b, err := browser.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	return b
}

// page is a browser in front of a site.
type page struct {
	*testing.T
	b *browser.Browser
	s *site
}

func (p page) open(path string) {
	p.Helper()
	if err := p.b.Open(p.s.URL + "/" + path); err != nil {
		p.Fatal(err)
	}
}

// shows waits until the page has a text.
func (p page) shows(text string) {
	p.Helper()
	p.becomes(`document.body.innerText.includes(` + quote(text) + `)`)
}

func (p page) becomes(expression string) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.Context(), 15*time.Second)
	defer cancel()
	if err := p.b.Await(ctx, expression); err != nil {
		p.Fatal(err)
	}
}

func quote(s string) string { return "`" + s + "`" }

// fits fails where something stands out of the window, or the console has an error.
func (p page) fits() {
	p.Helper()
	var over int
	if err := p.b.Eval(`document.documentElement.scrollWidth - document.documentElement.clientWidth`, &over); err != nil || over > 0 {
		p.Errorf("the page is %d pixels wider than its window: %v", over, err)
	}
	if said := p.b.Heard(); len(said) > 0 {
		p.Errorf("the console says %q", said)
	}
}

func TestPageInABrowser(t *testing.T) {
	b := start(t)
	past := wirefake.Prometheus(42)
	defer past.Close()
	p := page{t, b, serve(t, demo(), func(o *Options) { o.History, _ = Prometheus(past.URL) })}
	for _, width := range []int{1440, 390} {
		if err := b.Window(width, 900, "light"); err != nil {
			t.Fatal(err)
		}
		p.open("#/cluster")
		p.shows("rack-2")
		p.becomes(`document.querySelectorAll(".gpu").length === 4 && document.querySelectorAll(".part:not(.free)").length === 1`)
		p.fits()
		p.open("#/services/chat")
		p.becomes(`document.querySelectorAll(".plot canvas").length >= 2`)
		p.shows("acme")
		p.becomes(`/99% 2\.[0-9]* s/.test([...document.querySelectorAll(".plot")].find((e) => e.ariaLabel.startsWith("Time per request"))?.ariaLabel)`)
		p.open("#/requests")
		p.shows("The queue of the service is full.")
		p.becomes(`[...document.querySelectorAll("button")].some((b) => { if (b.innerText.startsWith("Slowest")) b.click(); return b.innerText.startsWith("Slowest"); })`)
		p.shows("600 ms waiting for a slot")
		p.fits()
		p.open("#/scaling")
		p.scaling()
		p.fits()
		p.open("#/events")
		p.shows("Events of the last hour")
		p.fits()
		p.open("#/services/chat")
		p.becomes(`/waiting [0-9]/.test(document.querySelector(".plot")?.ariaLabel)`)
		p.fits()
	}
	p.rollout()
	p.promised()
	p.past(past.Close)
	p.live()
	p.sourcesAway()
}

// scaling: a policy is decided for, the hour that gateways remember is beside what was, and
// what it would do now follows the demand.
func (p page) scaling() {
	p.shows("chat/h100 0 → 2")
	p.shows("20 s, measured")
	label := func(title, of string) string {
		return `(` + of + `).test([...document.querySelectorAll(".plot")].find((e) => e.ariaLabel.startsWith("` + title + `"))?.ariaLabel)`
	}
	p.becomes(label("Demand", `/demand [4-8].*, planned for [4-9]/`))
	p.becomes(label("Replicas", `/h100 was 1, h100 by policy [2-4]/`))
	p.becomes(label("Cost", `/cost was 6, cost by policy (12|18|24)/`))
}

// promised: a policy with an objective is decided for with the curves that gateways published,
// and the page says which.
func (p page) promised() {
	c := p.s.cluster
	c.Do(func() {
		c.KV["aliquot/rates/chat/gateway-1"] = []byte(`{"version":1,"updated":"` + time.Now().UTC().Format(time.RFC3339) + `","classes":{"h100":{"rate":1,` +
			`"n":90,"tokens":{"5of20":{"prefill":36e-6,"a":8e-3,"b":2e-5,"c":49e-9,"prompt":1000,"output":200,"kv_tokens":450000,"n":90}}}}}`)
		c.Policies = nil
		c.AddPolicy("chat", "h100", "tokens service=chat", map[string]string{"class": "h100", "classes": "h100 slots=4 cost=6 max=4", "objective": "ttft=2s"})
	})
	p.open("#/scaling")
	p.shows("by the objective, ")
	p.shows("For the whole hour, the curves of ")
	p.becomes(`[...document.querySelectorAll(".plot")].some((e) => e.ariaLabel.startsWith("Demand, in replicas of h100"))`)
	p.fits()
}

// past: a day is what Prometheus has, and the page goes back to what is live, also from a
// Prometheus that is gone.
func (p page) past(leave func()) {
	p.open("#/services/chat")
	choose := func(range_ string) {
		p.becomes(`[...document.querySelectorAll(".ranges button")].some((b) => { if (b.innerText === ` + quote(range_) + `) b.click(); return b.innerText === ` + quote(range_) + `; })`)
	}
	choose("24 h")
	p.becomes(`/waiting 42/.test(document.querySelector(".plot")?.ariaLabel)`)
	p.fits()
	leave()
	choose("6 h")
	p.shows("Prometheus does not answer")
	p.shows("Waiting requests")
	p.fits()
	choose("15 min")
	p.becomes(`/waiting [0-9] *$/.test(document.querySelector(".plot")?.ariaLabel)`)
}

// live: what changes is seen without a reload.
func (p page) live() {
	p.open("#/cluster")
	p.shows("all healthy")
	p.s.cluster.Do(func() {
		for _, d := range p.s.cluster.Nodes[1].NodeResources.Devices[0].Instances {
			d.Healthy, d.HealthDescription = false, "ECC errors: reset the GPU"
		}
	})
	p.shows("ECC errors: reset the GPU")
	p.open("#/events")
	p.shows("rack-2, mi300x-0")
	p.open("#/services/chat")
	p.s.cluster.Do(func() { p.s.cluster.Services[0].Queued = 77 })
	p.becomes(`document.querySelector(".tile dd")?.innerText === "77"`)
}

// sourcesAway: the page says so, shows what was, and finds its way back.
func (p page) sourcesAway() {
	c := p.s.cluster
	c.Do(func() { c.ConsulDown = true })
	p.shows("Consul has not answered for")
	c.Do(func() { c.GatewayDown = true })
	p.shows("gateway " + strings.TrimPrefix(c.Server.URL, "http://") + " has not answered for")
	p.shows("77")
	c.Do(func() { c.ConsulDown, c.GatewayDown = false, false })
	p.becomes(`document.querySelectorAll(".problems p").length === 0`)
}

func TestSignInInABrowser(t *testing.T) {
	b := start(t)
	c := demo()
	c.Tokens = map[string]bool{"own": true, "reader": true}
	p := page{t, b, serve(t, c)}
	enter := func(token string) {
		script := `(() => { const i = document.getElementById("token"); i.value = ` + quote(token) + `; i.form.requestSubmit(); })()`
		if err := b.Eval(script, nil); err != nil {
			t.Fatal(err)
		}
	}
	p.open("")
	p.becomes(`document.getElementById("token") !== null`)
	enter("stranger")
	p.shows("may not read nodes")
	enter("reader")
	p.shows("rack-1")
	var kept string
	if err := b.Eval(`document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage) + location.href`, &kept); err != nil || strings.Contains(kept, "reader") || strings.Contains(kept, cookie) {
		t.Errorf("scripts find %q: %v", kept, err)
	}
}

// Two hundred GPUs and fifty services: what is printed is how long frames take while
// the page scrolls and its figures change.
func TestLargeClusterInABrowser(t *testing.T) {
	b := start(t)
	c := wirefake.Start()
	for i := range 25 {
		node := c.AddNode("rack-"+string(rune('a'+i)), "nvidia", "h100", 8, 20)
		for g := range 8 {
			c.AddAlloc("job-"+string(rune('a'+(i+g)%20)), "server", node, g, 0, 5)
			c.AddAlloc("job-"+string(rune('a'+(i+2*g)%20)), "server", node, g, 5, 10)
		}
	}
	for i := range 50 {
		c.Services = append(c.Services, api.Service{Service: "service-" + string(rune('a'+i/10)) + string(rune('0'+i%10)), Active: map[string]int{}})
	}
	p := page{t, b, serve(t, c)}
	if err := b.Window(1440, 900, "dark"); err != nil {
		t.Fatal(err)
	}
	p.open("#/cluster")
	p.becomes(`document.querySelectorAll(".gpu").length === 200`)
	c.Do(func() { c.Nodes[0].Status = nomad.NodeStatusDown })
	p.becomes(`document.querySelectorAll(".node .badge.warn").length === 1`)
	var frames []float64
	script := `new Promise((done) => { const out = []; let last = performance.now(); let n = 0;
	  const step = (now) => { out.push(now - last); last = now; scrollBy(0, 60); if (++n === 60) done(out); else requestAnimationFrame(step); };
	  requestAnimationFrame(step); })`
	if err := b.Eval(script, &frames); err != nil {
		t.Fatal(err)
	}
	worst, sum := 0.0, 0.0
	for _, f := range frames {
		worst, sum = max(worst, f), sum+f
	}
	t.Logf("200 GPUs: %d frames, %.1f ms on average, %.1f ms the longest", len(frames), sum/float64(len(frames)), worst)
	p.open("#/services")
	p.becomes(`document.querySelectorAll("tbody tr").length === 50`)
	p.fits()
}

// axe-core finds no serious fault in any view, in either theme.
func TestAccessibilityInABrowser(t *testing.T) {
	b := start(t)
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("needs npm, which downloads axe-core")
	}
	axe, err := browser.Axe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := demo()
	c.KV["aliquot/node/wanted"] = []byte(`{"max": 1, "classes": {"*": {"version": "580.126.09"}}}`)
	c.KV["aliquot/node/nodes/1"] = []byte(`{"node": "rack-1", "id": "1", "phase": "failed", "why": "no module"}`)
	p := page{t, b, serve(t, c)}
	for _, theme := range []string{"light", "dark"} {
		for view, text := range map[string]string{
			"cluster": "rack-2", "services": "chat", "services/chat": "Replicas", "requests": "queue full", "scaling": "by policy", "events": "Events of the last hour",
		} {
			if err := b.Window(1440, 900, theme); err != nil {
				t.Fatal(err)
			}
			p.open("?" + theme + "#/" + view) // another address, so that the page is loaded in this theme
			p.shows(text)
			faults, err := b.Faults(axe)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range faults {
				say := t.Errorf
				if f.Impact != "serious" && f.Impact != "critical" {
					say = t.Logf
				}
				say("%s, %s: %s (%s): %s", view, theme, f.Help, f.Impact, f.Nodes[0].HTML+" "+f.Nodes[0].Summary)
			}
		}
	}
}
