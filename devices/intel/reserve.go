package intel

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/devices/plugin"
	kernel "aliquot.example/internal/host/intel"
	"aliquot.example/internal/share"
)

// envAffinity is the variable with the devices that Level Zero may use.
const envAffinity = "ZE_AFFINITY_MASK"

// Reserve returns the variable, device nodes and mount with which Level Zero finds a task's devices.
func (v *vendor) Reserve(_ context.Context, granted share.Granted) (plugin.Reservation, error) {
	tiles := 0
	for _, o := range granted.Offers {
		g, ok := v.known(o.ID)
		if !ok {
			return plugin.Reservation{},
				fmt.Errorf("GPU %s is no longer on this host; "+
					"Nomad places the job again when it sees the GPU unhealthy",
					o.ID)
		}
		if why := v.problem(g); why != "" {
			return plugin.Reservation{}, fmt.Errorf("GPU %s accepts no tasks now: %s", o.ID, why)
		}
		tiles += g.Tiles
	}
	nodes, err := kernel.Nodes(v.root, granted.Grant)
	if err != nil {
		return plugin.Reservation{}, err
	}
	out := plugin.Reservation{Env: map[string]string{envAffinity: affinity(tiles)}}
	for _, node := range nodes {
		out.Devices = append(out.Devices, &device.DeviceSpec{TaskPath: node, HostPath: v.root.Path(node),
			CgroupPerms: "rw"})
	}
	if v.root.Exists(kernel.Links) {
		out.Mounts = []*device.Mount{{TaskPath: kernel.Links, HostPath: v.root.Path(kernel.Links), ReadOnly: true}}
	}
	return out, nil
}

// affinity names all devices of a container that has only the granted render nodes. Level Zero counts
// tiles as devices. If a program requests whole GPUs, it ignores numbers of devices that do not exist.
func affinity(tiles int) string {
	out := make([]string, tiles)
	for i := range out {
		out[i] = strconv.Itoa(i)
	}
	return strings.Join(out, ",")
}
