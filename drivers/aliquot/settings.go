package aliquot

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"aliquot.example/internal/account"
)

// settings is a checked DriverConfig.
type settings struct {
	host       host
	runDir     string
	mpsControl string
	attach     string
	runtime    string // name of NVIDIA's container runtime
	cdiDirs    []string
	timeout    time.Duration // for attachment
	dangling   string
	// removes is set if this driver itself removes unknown containers.
	removes bool
	engine  engineAddress
	limits  limits
	// joins is set if the docker driver creates allocations' networks.
	joins bool
	// cacheSocket is where the node's cache listens.
	cacheSocket string
	// authenticates is set if the docker driver has its own credentials for registries.
	authenticates bool
	// pullTimeout is the default for a pull.
	pullTimeout string
	// packing is nil if the node publishes no levels.
	packing *account.Watcher
}

// engineAddress is the address of the container engine; if empty, the environment has it.
type engineAddress struct{ endpoint, cert, key, ca string }

// settings checks the configuration; its errors name the key, the value and what
// to write instead.
func (c DriverConfig) settings() (settings, error) {
	s := settings{
		host: host(c.Root), runDir: c.RunDir, mpsControl: c.MPSControl, attach: c.Attach, runtime: c.GPURuntimeName,
		cdiDirs: c.CDIDirs, dangling: c.DanglingCheck,
		removes: c.GC.DanglingContainers.Enabled && !c.GC.DanglingContainers.DryRun,
		engine:  engineAddress{c.Endpoint, c.TLS.Cert, c.TLS.Key, c.TLS.CA},
		joins:   c.JoinNetworks, cacheSocket: c.CacheSocket, pullTimeout: c.ImagePullTimeout,
		authenticates: c.Auth.Config != "" || c.Auth.Helper != "",
		limits: limits{
			privileged: c.AllowPrivileged, volumes: c.Volumes.Enabled, ungranted: c.AllowUngrantedGPUs,
			modes: c.AllowedModes, devices: c.AllowedDevices,
			sockets: engineSockets(c.Endpoint),
		},
	}
	for key, dir := range map[string]string{"root": c.Root, "run_dir": c.RunDir, "cache_socket": c.CacheSocket} {
		if !filepath.IsAbs(dir) {
			return s, fmt.Errorf("%s is %q: want an absolute path", key, dir)
		}
	}
	for key, choice := range map[string]struct {
		value string
		of    []string
	}{
		"attach":                    {c.Attach, []string{AttachAuto, AttachRuntime, AttachCDI, AttachNodes}},
		"dangling_containers_check": {c.DanglingCheck, []string{DanglingEnforce, DanglingWarn, DanglingOff}},
	} {
		if !slices.Contains(choice.of, choice.value) {
			return s, fmt.Errorf("%s is %q: use %s", key, choice.value, strings.Join(choice.of, ", "))
		}
	}
	for _, d := range c.AllowedDevices {
		if !filepath.IsAbs(d) || !within("/dev", d) {
			return s,
				fmt.Errorf("allowed_devices has %q: want the path of a device node, "+
					"such as \"/dev/dri/by-path/pci-0000:00:02.0-render\"", d)
		}
		if info, err := os.Stat(s.host.path(d)); err == nil && info.IsDir() {
			return s,
				fmt.Errorf("allowed_devices has %q, which is a directory: "+
					"list the device nodes in it that jobs may use",
					d)
		}
	}
	if c.MPSControl == "" {
		return s, fmt.Errorf("mps_control is empty: name the program, by default \"nvidia-cuda-mps-control\"")
	}
	if c.Packing.Enabled {
		w, err := c.Packing.watcher()
		if err != nil {
			return s, err
		}
		s.packing = &w
	}
	var err error
	s.timeout, err = positive("attachment_timeout", c.AttachmentTimeout)
	return s, err
}

// engineSockets returns the sockets of the container engine on this host, and their directories. An
// engine with a TCP endpoint has the usual sockets, too.
func engineSockets(endpoint string) []string {
	out := []string{"/var/run/docker.sock", "/run/docker.sock", "/run/docker", "/run/containerd"}
	if path, ok := strings.CutPrefix(socket(endpoint), "unix://"); ok && !slices.Contains(out, path) {
		out = append(out, path)
	}
	return out
}
