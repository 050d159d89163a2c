package ui

import (
	"strings"
	"time"
)

// rollout: where each node is on its way to another driver, and why; a failure opens the panel.
func (p page) rollout() {
	p.open("#/cluster")
	p.becomes(`document.querySelector(".rollout") === null`)
	at := time.Now().Add(-5 * time.Minute).UTC().Format(time.RFC3339)
	put := func(key, text string) {
		p.s.cluster.Do(func() { p.s.cluster.KV["aliquot/node/"+key] = []byte(strings.ReplaceAll(text, "AT", at)) })
	}
	put("wanted", `{"max": 2, "classes": {"h100": {"version": "580.126.09", "canary": ["rack-1"]}}}`)
	put("nodes/1", `{"node": "rack-1", "id": "1", "class": "h100", "phase": "current", "wanted": "580.126.09", "drivers": {"nvidia": {"loaded": "580.126.09"}}, "since": "AT"}`)
	p.becomes(`document.querySelector(".rollout")?.open === false && document.querySelector(".rollout").innerText.includes("0 of 2 slots taken")`)
	put("slots", `{"holders": {"2": {"node": "rack-2", "class": "h100", "version": "580.126.09", "since": "AT"}}}`)
	put("nodes/2", `{"node": "rack-2", "id": "2", "class": "h100", "phase": "draining", "why": "2 allocations are left: chat.server[0]", "wanted": "580.126.09", "drivers": {"nvidia": {"loaded": "580.95.05"}}, "since": "AT"}`)
	p.becomes(`document.querySelector(".rollout")?.open === true`)
	p.shows("2 allocations are left: chat.server[0]")
	p.shows("580.126.09: 1 of 2 nodes")
	p.shows("5 min ago")
	p.fits()
	put("slots", `{"holders": {"2": {"node": "rack-2", "class": "h100", "version": "580.126.09", "since": "AT", "failed": "the module on disk is another"}}}`)
	put("nodes/2", `{"node": "rack-2", "id": "2", "class": "h100", "phase": "failed", "why": "the module on disk is another", "since": "AT"}`)
	p.shows("rollout stopped: node rack-2 failed")
	put("wanted", "no JSON")
	p.shows("cannot decode key aliquot/node/wanted in Consul")
	p.fits()
}
