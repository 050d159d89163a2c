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

// hipMaskUnits is the fewest compute units with which HIP can read its own mask
// variable: it cuts the number into words of 32 bits and fails on a GPU that has
// fewer (ROCm clr, rocdevice.cpp). HSA_CU_MASK holds there too.
const hipMaskUnits = 32

// Reserve tells ROCm which GPUs a task has, and of a shared one which compute
// units. All of it follows from the granted instance IDs.
func (v *vendor) Reserve(_ context.Context, granted share.Granted) (plugin.Reservation, error) {
	var nodes []node
	var cards []card
	for _, offer := range granted.Offers {
		c, n, ok := v.known(offer.ID)
		if !ok {
			return plugin.Reservation{},
				fmt.Errorf("GPU %s is no longer on this host: the job is placed again once Nomad sees it unhealthy",
					offer.ID)
		}
		v.mu.Lock()
		problem := v.sick[c.ID]
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

// visible names the granted GPUs to ROCm. Unique IDs mean the same in and outside
// a container; where a GPU has none, or shares it with its card's other
// partitions, ordinals are counted as inside a container that holds the granted
// render nodes alone: KFD hides all others from it.
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

// mask adds the mask variables of a grant of slices, which are of one GPU: GPU 0
// to the task.
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
	// Slices are whole compute units, which the exact share need not be.
	env[gpu.EnvUnits] = strconv.Itoa(units)
	env[gpu.EnvWeight] = gpu.FormatWeight(granted.Offers[0].Weight * float64(units) / float64(shape.Units))
	return nil
}

func (v *vendor) deviceSpec(path string) *device.DeviceSpec {
	return &device.DeviceSpec{TaskPath: path, HostPath: v.Path(path), CgroupPerms: "rw"}
}
