package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/share"
)

// TestIslands runs each vendor's plugin on a host whose GPUs are connected in pairs and in fours.
// The attributes name the islands, and the island for a request follows Nomad's allocations.
func TestIslands(t *testing.T) {
	for name, rig := range map[string]func(*testing.T) Rig{"NVIDIA": pairsNVIDIA, "AMD": pairsAMD} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			b := &bench{t: t, rig: rig(t), log: keepLog(t), ctx: ctx}
			t.Cleanup(b.rig.Close)
			agent := newAgent(t)
			r := b.start(map[string]any{
				"gpu":     []map[string]any{{"*": []map[string]any{{"mode": "whole"}}}},
				"packing": []map[string]any{{"nomad_address": agent.URL}},
			})
			// As in the agent, allocations are followed while a stream is open.
			stream, err := r.Fingerprint(ctx)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				for range stream {
				}
			}()
			group := b.ready(r)[0]
			var list []string // in the order of the host
			for _, d := range group.Devices {
				list = append(list, d.ID)
			}
			if len(list) != 8 {
				t.Fatalf("the group has %v, want eight GPUs", list)
			}
			names := func(g *device.DeviceGroup, attribute string) string {
				if g.Attributes[attribute] == nil {
					return "none"
				}
				text, _ := g.Attributes[attribute].GetString()
				var out []string
				for _, id := range strings.Split(text, ",") {
					out = append(out, fmt.Sprint(slices.Index(list, id)))
				}
				return strings.Join(out, " ")
			}
			for attribute, want := range map[string]string{
				"unique.link_0": "0 1", "unique.link_3": "6 7", "unique.link_4": "none", "unique.link_for_2": "0 1", "unique.link_for_3": "none",
				"unique.switch_0": "0 1 2 3", "unique.switch_1": "4 5 6 7", "unique.switch_for_3": "0 1 2 3", "unique.numa_for_4": "0 1 2 3", "unique.numa_1": "4 5 6 7",
			} {
				if got := names(group, attribute); got != want {
					t.Errorf("%s is %s, want %s", attribute, got, want)
				}
			}
			for joint, want := range map[share.Joint]int64{share.ByLink: 2, share.BySwitch: 4, share.ByNUMA: 4} {
				if size := group.Attributes[string(joint)+"_size"]; size == nil || *size.Int != want {
					t.Errorf("%s_size is %v, want %d", joint, size, want)
				}
			}
			agent.hold(ctx, t, list[1], list[4])
			b.await(r, "the islands that have room", func(now []*device.DeviceGroup) bool {
				g := now[0]
				return names(g, "unique.link_for_2") == "2 3" && names(g, "unique.switch_for_4") == "0 1 2 3" && names(g, "unique.numa_for_2") == "0 1 2 3"
			})
			agent.hold(ctx, t, list[4])
			b.await(r, "the first pair again, and the other island for four", func(now []*device.DeviceGroup) bool {
				return names(now[0], "unique.link_for_2") == "0 1" && names(now[0], "unique.switch_for_3") == "4 5 6 7"
			})
		})
	}
}

// pairsNVIDIA has eight H100s with an NVLink bridge for every two and a PCIe switch for every four.
func pairsNVIDIA(t *testing.T) Rig {
	return nvidiaRigOf(t, func(f *rack.File) {
		for i := range f.GPUs {
			g := &f.GPUs[i]
			g.Set("nvlinks", "4")
			g.Set("nvlink_to", f.GPUs[i^1].Get("pci"))
			g.Set("pcie_switch", fmt.Sprint(i/4))
		}
	}, "8xh100")
}

// pairsAMD has eight MI210s with the same connections.
func pairsAMD(t *testing.T) Rig {
	cards := rack.AMDHost(rack.MI210, 8, "", "")
	for i := range cards {
		cards[i].PCI = fmt.Sprintf("0000:%02x:00.0", 0x11+i)
	}
	for i := range cards {
		cards[i].XGMI, cards[i].Switch, cards[i].NUMA = []string{cards[i^1].PCI}, fmt.Sprint(i/4), i/4
	}
	root := t.TempDir()
	r, err := rack.NewAMD(root, cards...)
	if err != nil {
		t.Fatal(err)
	}
	return Rig{
		Vendor: "amd", Binary: shipped(t, "aliquot-device-amd"), Env: r.Env("", plain()), Close: func() {},
		Config: map[string]any{"root": root, "run_dir": filepath.Join(root, "run")},
	}
}

// agent is an HTTP server that answers questions about its node like a Nomad agent.
type agent struct {
	*httptest.Server
	changes chan []string // the instances in use
}

func newAgent(t *testing.T) *agent {
	a := &agent{changes: make(chan []string)}
	var held []string
	index := 1
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) {
		w.Header().Set("X-Nomad-Index", fmt.Sprint(index))
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/v1/agent/self", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"stats": map[string]any{"client": map[string]string{"node_id": "n"}}})
	})
	mux.HandleFunc("/v1/node/n", func(w http.ResponseWriter, _ *http.Request) { reply(w, api.Node{ID: "n"}) })
	// There is only one client, which sends one request after the other.
	mux.HandleFunc("/v1/node/n/allocations", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("index") == fmt.Sprint(index) {
			select {
			case held = <-a.changes:
				index++
			case <-r.Context().Done():
				return
			}
		}
		reply(w, []api.Allocation{{ClientStatus: api.AllocClientStatusRunning, AllocatedResources: &api.AllocatedResources{Tasks: map[string]*api.AllocatedTaskResources{
			"task": {Devices: []*api.AllocatedDeviceResource{{DeviceIDs: held}}},
		}}}})
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(func() { a.CloseClientConnections(); a.Close() })
	return a
}

// hold makes an allocation hold these instances.
func (a *agent) hold(ctx context.Context, t *testing.T, ids ...string) {
	t.Helper()
	select {
	case a.changes <- ids:
	case <-ctx.Done():
		t.Fatal("nobody asks for the allocations")
	}
}
