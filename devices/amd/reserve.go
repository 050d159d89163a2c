package amd

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
	"aliquot.example/internal/share"
)

// Variables of ROCm and HIP.
const (
	envVisible = "ROCR_VISIBLE_DEVICES"
	envHSAMask = "HSA_CU_MASK"
	envHIPMask = "ROC_GLOBAL_CU_MASK"
)

// hipMaskUnits is the smallest number of compute units with which HIP can read its mask variable: it
// splits the mask into words of 32 bits and fails on a GPU with fewer units (ROCm clr,
// rocdevice.cpp). HSA_CU_MASK is effective there, too.
const hipMaskUnits = 32

// Reserve returns the variables that tell ROCm which GPUs a task has, and which compute units of a
// shared GPU. They depend only on the granted instance IDs and the hardware.
func (v *vendor) Reserve(_ context.Context, granted share.Granted) (plugin.Reservation, error) {
	var nodes []node
	var cards []card
	for _, offer := range granted.Offers {
		c, n, ok := v.known(offer.ID)
		if !ok {
			return plugin.Reservation{},
				fmt.Errorf("GPU %s is no longer on this host; "+
					"Nomad places the job again when it sees the GPU unhealthy",
					offer.ID)
		}
		v.mu.Lock()
		problem := v.unhealthy[c.ID]
		v.mu.Unlock()
		if problem != "" {
			return plugin.Reservation{}, fmt.Errorf("GPU %s accepts no tasks now: %s", offer.ID, problem)
		}
		nodes, cards = append(nodes, n), append(cards, c)
	}
	out := plugin.Reservation{Env: map[string]string{envVisible: visible(cards, nodes)}}
	if granted.Grant.Sharing == gpu.SharingCUMask {
		if err := mask(out.Env, nodes[0].Shape, granted); err != nil {
			return plugin.Reservation{}, err
		}
	}
	out.Devices = []*device.DeviceSpec{v.deviceSpec("/dev/kfd")}
	for i, offer := range granted.Offers {
		minor, err := v.render(cards[i], offer.ID)
		if err != nil {
			return plugin.Reservation{}, err
		}
		out.Devices = append(out.Devices, v.deviceSpec(host.RenderNode(minor)))
	}
	return out, nil
}

// visible returns the granted GPUs' names for ROCm. Unique IDs are the same inside and outside a
// container. If a GPU has none, or shares it with other partitions of its card, visible uses ordinals
// as they are in a container with only the granted render nodes: KFD hides all other GPUs from it.
func visible(cards []card, nodes []node) string {
	out := make([]string, len(nodes))
	for i, n := range nodes {
		if n.UniqueID == 0 || cards[i].partitioned() {
			return ordinals(len(nodes))
		}
		out[i] = fmt.Sprintf("GPU-%016x", n.UniqueID)
	}
	return strings.Join(out, ",")
}

func ordinals(n int) string {
	out := make([]string, n)
	for i := range out {
		out[i] = strconv.Itoa(i)
	}
	return strings.Join(out, ",")
}

// mask adds the mask variables for a grant of slices. They are always slices of one GPU, which is
// GPU 0 for the task.
func mask(env map[string]string, shape share.CUShape, granted share.Granted) error {
	ranges, err := share.CUMask(shape, slices.Clone(granted.Slices))
	if err != nil || ranges == nil {
		return err
	}
	env[envHSAMask] = share.HSACUMask(0, ranges)
	if shape.Units >= hipMaskUnits {
		env[envHIPMask] = share.ROCGlobalCUMask(ranges)
	}
	units := 0
	for _, r := range ranges {
		units += r.Last - r.First + 1
	}
	// Masks consist of whole compute units, so they may differ from the exact share.
	env[gpu.EnvUnits] = strconv.Itoa(units)
	env[gpu.EnvWeight] = gpu.FormatWeight(granted.Offers[0].Weight * float64(units) / float64(shape.Units))
	return nil
}

func (v *vendor) deviceSpec(path string) *device.DeviceSpec {
	return &device.DeviceSpec{TaskPath: path, HostPath: v.Path(path), CgroupPerms: "rw"}
}
