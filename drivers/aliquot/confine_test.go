package aliquot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
)

// confined makes settings for a machine with GPUs of two vendors.
func confined(t *testing.T, change func(*limits)) settings {
	t.Helper()
	r := nvidiaTree(t)
	r.node("dev/kfd", 0)
	r.node("dev/dri/renderD128", 0)
	r.node("dev/fuse", 0)
	s := attachSettings(r, AttachNodes)
	s.timeout, s.runDir = patience, t.TempDir()
	s.limits.sockets = engineSockets("tcp://127.0.0.1:2375")
	change(&s.limits)
	return s
}

// start prepares a task and returns what the docker driver would be handed.
func (s settings) start(t *testing.T, text string, env, reserved map[string]string) (*drivers.TaskConfig, docker.TaskConfig, error) {
	t.Helper()
	_, schema := schemas(t)
	return s.startJob(t, newJob(t, schema, text, reserved, env))
}

func (s settings) startJob(t *testing.T, job *drivers.TaskConfig) (*drivers.TaskConfig, docker.TaskConfig, error) {
	t.Helper()
	var c docker.TaskConfig
	got, err := s.prepare(job, []string{"runc", "nvidia", "amd"})
	if err != nil {
		return nil, c, err
	}
	if err := got.config.DecodeDriverConfig(&c); err != nil {
		t.Fatal(err)
	}
	return got.config, c, nil
}

// local is a job's volume of the local volume driver.
func local(kind, device, options string) string {
	return fmt.Sprintf(`"mount": [{"type": "volume", "target": "/x", "source": "v", "volume_options": [{"driver_config": [{"options": [{"type": %q, "o": %q, "device": %q}]}]}]}]`, kind, options, device)
}

// Whatever asks for GPUs past Nomad's account is refused, with a grant and without,
// and passes where the operator allows it.
func TestNoWayToAGPUPastTheGrant(t *testing.T) {
	s := confined(t, func(l *limits) { l.volumes, l.privileged = true, true })
	root := string(s.host)
	device := func(path string) string { return fmt.Sprintf(`"devices": [{"host_path": %q}]`, path) }
	volume := func(from string) string { return fmt.Sprintf(`"volumes": ["%s:/x"]`, from) }
	link := filepath.Join(root, "dev/innocent")
	if err := os.Symlink("nvidia3", link); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "dev/box"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ config, want string }{
		{device("/dev/nvidia3"), "/dev/nvidia3 is a device node of GPUs"},
		{device(root + "/dev/nvidia3"), "is a device node of GPUs"},
		{device(link), "innocent is a device node of GPUs"},
		{device("/dev/../dev//nvidia0"), "is a device node of GPUs"},
		{device("/dev/nvidiactl"), "is a device node of GPUs"},
		{device("/dev/nvidia-uvm"), "is a device node of GPUs"},
		{device(root + "/dev/nvidia-caps"), "is a device node of GPUs"},
		{device(root + "/dev/nvidia-caps/nvidia-cap66"), "is a device node of GPUs"},
		{device("/dev/kfd"), "is a device node of GPUs"},
		{device("/dev/dri"), "is a device node of GPUs"},
		{device("/dev/dri/renderD128"), "is a device node of GPUs"},
		{device("/dev/dri/by-path/pci-0000:c1:00.0-render"), "is a device node of GPUs"},
		{device("/dev/accel/accel0"), "is a device node of GPUs"},
		{device("/dev"), "/dev contains the device nodes of GPUs"},
		{device(root + "/dev"), "contains the device nodes of GPUs"},
		{device("/"), "is not in /dev"},
		{device("/opt/nomad/alloc/x/made-by-mknod"), "is not in /dev"},
		{device("/dev/ng0n1"), "is a disk of the host"},
		{device("/dev/nvme0"), "is a disk of the host"},
		{device("/dev/sg0"), "is a disk of the host"},
		{device("/dev/bsg/0:0:0:0"), "is a disk of the host"},
		{device("/dev/bsg"), "is a disk of the host"},
		{device("/dev/vfio/12"), "passes hardware of the host through"},
		{device("/dev/vfio"), "passes hardware of the host through"},
		{device("/dev/ipmi0"), "management controller"},
		{device("/dev/ipmidev/0"), "management controller"},
		{device("/dev/mem"), "is the host's memory"},
		{device("/dev/cpu/0/msr"), "is the host's memory"},
		{device("/dev/shm/made-by-mknod"), "is in /dev/shm"},
		{device(root + "/dev/shm/made-by-mknod"), "is in /dev/shm"},
		{device("/dev/mqueue"), "is in /dev/mqueue"},
		{device("nvidia.com/gpu=all"), "is not an absolute path"},
		{device("amd.com/gpu=0"), "is not an absolute path"},
		{volume("/dev"), "contains the device nodes of GPUs"},
		{volume("/"), "contains the device nodes of GPUs"},
		{volume(root + "/dev/nvidia3"), "is a device node of GPUs"},
		{volume(link), "is a device node of GPUs"},
		{volume("/dev/dri"), "is a device node of GPUs"},
		{volume("/proc"), "shows the files of other tasks' processes"},
		{volume("/sys"), "registers of every GPU"},
		{volume(s.runDir), "contains run_dir"},
		{volume(filepath.Dir(s.runDir)), "contains run_dir"},
		{volume("/var/run/docker.sock"), "container engine's socket"},
		{volume("/var/run"), "container engine's socket"},
		{volume("/run/docker.sock"), "container engine's socket"},
		{volume("/run/docker/containerd/containerd.sock"), "container engine's socket"},
		{volume("/run/containerd/containerd.sock"), "container engine's socket"},
		{volume("/run/containerd/s"), "container engine's socket"},
		{`"volume_driver": "local", ` + volume("/dev"), "contains the device nodes of GPUs"},
		{`"volume_driver": "any", ` + volume("/var/run/docker.sock"), "container engine's socket"},
		{local("proc", "none", ""), `type = "proc"`},
		{local("sysfs", "sysfs", ""), `type = "sysfs"`},
		{local("cgroup2", "cgroup2", "rw"), `type = "cgroup2"`},
		{local("overlay", "overlay", "lowerdir=/"), `type = "overlay"`},
		{local("devtmpfs", "devtmpfs", ""), `type = "devtmpfs"`},
		{local("ext4", "/somewhere/disk", ""), `type = "ext4"`},
		{local("tmpfs", "/dev", "bind"), "contains the device nodes of GPUs"},
		{local("nfs", "/proc", "bind"), "shows the files of other tasks' processes"},
		{`"volumes": ["/dev/null:/var/run/nvidia-container-devices/all"]`, "asks the container runtime for a GPU"},
		{`"mount": [{"type": "bind", "source": "/dev", "target": "/x"}]`, "contains the device nodes of GPUs"},
		{`"mounts": [{"type": "bind", "source": "/dev/nvidia0", "target": "/x"}]`, "is a device node of GPUs"},
		{`"mount": [{"type": "volume", "target": "/x", "source": "v", "volume_options": [{"driver_config": [{"name": "local", "options": [{"type": "none", "o": "bind", "device": "/dev"}]}]}]}]`, "contains the device nodes of GPUs"},
		{`"mount": [{"type": "volume", "target": "/x", "source": "v", "volume_options": [{"driver_config": [{"name": "local", "options": [{"type": "none", "o": "bind", "device": "dev/dri"}]}]}]}]`, "is a device node of GPUs"},
		{volume("/proc/self/root/dev"), "contains the device nodes of GPUs"},
		{`"privileged": true`, "privileged = true gives the task every GPU"},
		{`"cap_add": ["CAP_SYS_ADMIN"]`, "cap_add: CAP_SYS_ADMIN"},
		{`"cap_add": ["all"]`, "cap_add: all"},
		{`"cap_add": ["sys_rawio"]`, "cap_add: sys_rawio"},
		{`"cap_add": [" SYS_ADMIN\t"]`, "SYS_ADMIN"},
		{`"cap_add": ["dac_read_search"]`, "cap_add: dac_read_search"},
		{`"cgroupns": "host"`, `cgroupns = "host"`},
		{`"security_opt": ["writable-cgroups=true"]`, `security_opt "writable-cgroups=true"`},
		{`"security_opt": ["no-new-privileges", "writable-cgroups:true"]`, `security_opt "writable-cgroups:true"`},
		{`"security_opt": ["systempaths=unconfined"]`, `security_opt "systempaths=unconfined"`},
		{`"pid_mode": "host"`, `pid_mode = "host" lets the task use GPUs that processes of other tasks have open`},
		{`"pid_mode": "container:other"`, `pid_mode = "container:other" lets the task use GPUs that processes of other tasks have open`},
	} {
		for name, grant := range map[string]map[string]string{"none": nil, "whole": reserved(wholeGrant())} {
			text := `{"image": "x:1", ` + c.config + `}`
			_, _, err := s.start(t, text, nil, grant)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s with grant %s: %v, want %q", c.config, name, err, c.want)
			} else if !strings.Contains(err.Error(), "allow_ungranted_gpus = true") {
				t.Errorf("%s: %v does not say what allows it", c.config, err)
			}
			allowed := s
			allowed.limits.ungranted = true
			if _, _, err := allowed.start(t, text, nil, grant); err != nil {
				t.Errorf("%s with grant %s is refused though allowed: %v", c.config, name, err)
			}
		}
	}
}

// A node is known by its number, whatever its name: a container can make nodes, and
// an engine takes every node of a folder.
func TestGPUNodesAreKnownByNumber(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make device nodes")
	}
	r := tree{t, t.TempDir()}
	r.file("proc/devices", "Character devices:\n  1 mem\n 10 misc\n 21 sg\n195 nvidia\n234 nvidia-caps\n240 vfio\n241 nvme-generic\n242 bsg\n243 ipmidev\n244 nvme\n511 kfd\n\nBlock devices:\n  8 sd\n 234 no-gpu\n")
	for name, d := range map[string]struct {
		mode         uint32
		major, minor int
		want         string
	}{
		"a/null": {syscall.S_IFCHR, 1, 3, ""}, "b/one": {syscall.S_IFCHR, 195, 3, "device node of GPUs"}, "c/two": {syscall.S_IFCHR, 234, 7, "device node of GPUs"},
		"d/three": {syscall.S_IFCHR, 511, 0, "device node of GPUs"}, "e/four": {syscall.S_IFCHR, 226, 128, "device node of GPUs"}, "f/disk": {syscall.S_IFBLK, 8, 0, "disk of the host"},
		"g/one": {syscall.S_IFCHR, 21, 0, "disk of the host"}, "g2/two": {syscall.S_IFCHR, 241, 1, "disk of the host"}, "g3/three": {syscall.S_IFCHR, 242, 1, "disk of the host"},
		"g4/four": {syscall.S_IFCHR, 244, 0, "disk of the host"}, "h/group": {syscall.S_IFCHR, 240, 12, "passes hardware"}, "i/bmc": {syscall.S_IFCHR, 243, 0, "management controller"},
		"j/mem": {syscall.S_IFCHR, 1, 1, "host's memory"}, "k/random": {syscall.S_IFCHR, 1, 8, ""}, "l/tun": {syscall.S_IFCHR, 10, 200, ""},
	} {
		path := r.make("dev/" + name)
		if err := syscall.Mknod(path, d.mode|0o600, d.major<<8|d.minor); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, filepath.Dir(path)} {
			got, err := r.host().harmlessNode(p)
			if d.want == "" && (err != nil || got != p) || d.want != "" && (err == nil || !strings.Contains(err.Error(), d.want)) {
				t.Errorf("%s: %v, want %q", p, err, d.want)
			}
		}
	}
}

// Without a grant every vendor's runtime is asked for nothing, whatever the job, its
// templates, its variants and the image say.
func TestWithoutAGrantTheVariablesOfAllVendorsMeanNothing(t *testing.T) {
	s := confined(t, func(*limits) {})
	ask := map[string]string{}
	for name := range noGPU() {
		ask[name] = "all"
	}
	text := `{"variant": [{"v": [{"image": "x:1", "env": [{"NVIDIA_VISIBLE_DEVICES": "all", "AMD_VISIBLE_DEVICES": "all"}]}]}]}`
	for name, grant := range map[string]map[string]string{"none": nil, "another device": {"FPGA": "0"}, "whole": reserved(wholeGrant())} {
		cfg, _, err := s.start(t, text, ask, grant)
		if err != nil {
			t.Fatal(err)
		}
		for variable, none := range noGPU() {
			if cfg.Env[variable] != none {
				t.Errorf("grant %s: %s = %q, want %q", name, variable, cfg.Env[variable], none)
			}
		}
	}
	s.limits.ungranted = true
	if cfg, _, err := s.start(t, `{"image": "x:1"}`, ask, nil); err != nil || cfg.Env[visibleDevices] != "all" {
		t.Errorf("allowed by the operator: %v, %v", cfg.Env, err)
	}
}

// What another device plugin granted by NVIDIA's runtime is that and no more.
func TestAnotherPluginsGrantStays(t *testing.T) {
	s := confined(t, func(*limits) {})
	granted := map[string]string{visibleDevices: "GPU-7"}
	cfg, c, err := s.start(t, `{"image": "x:1", "runtime": "nvidia"}`, map[string]string{visibleDevices: "all"}, granted)
	if err != nil || cfg.Env[visibleDevices] != "GPU-7" || cfg.DeviceEnv[visibleDevices] != "GPU-7" || c.Runtime != "nvidia" {
		t.Errorf("%v, %v", cfg, err)
	}
	if _, _, err := s.start(t, `{"image": "x:1", "privileged": true, "devices": [{"host_path": "/dev/nvidia3"}]}`, nil, granted); err == nil {
		t.Error("a node beside that grant is handed out")
	}
}

func TestRuntimeOfAVendorNeedsItsGrant(t *testing.T) {
	s := confined(t, func(*limits) {})
	amd := gpu.Grant{Vendor: gpu.AMD, Group: "mi300x", GPUs: []gpu.ID{"0000:c6:00.0"}, PCI: []string{"0000:c6:00.0"}, Slices: 1, Total: 1, Sharing: gpu.SharingNone}
	for _, c := range []struct {
		runtime string
		grant   map[string]string
		refused bool
	}{
		{"nvidia", nil, true}, {"nvidia-cdi", nil, true}, {"amd", nil, true}, {"runc", nil, false}, {"kata", nil, false},
		{"nvidia", reserved(wholeGrant()), false}, {"amd", reserved(wholeGrant()), true}, {"nvidia", reserved(amd), true},
	} {
		_, _, err := s.start(t, fmt.Sprintf(`{"image": "x:1", "runtime": %q}`, c.runtime), nil, c.grant)
		if refused := err != nil && strings.Contains(err.Error(), "runtime = "); refused != c.refused {
			t.Errorf("%s: %v", c.runtime, err)
		}
	}
}

// A device path is handed on as it was looked at: a link may be another by the time
// the engine follows it.
func TestDevicesAreHandedOnResolved(t *testing.T) {
	s := confined(t, func(*limits) {})
	link := filepath.Join(string(s.host), "dev/link")
	if err := os.Symlink("fuse", link); err != nil {
		t.Fatal(err)
	}
	_, c, err := s.start(t, fmt.Sprintf(`{"image": "x:1", "devices": [{"host_path": %q}, {"host_path": %q, "container_path": "/dev/f"}]}`, link, link), nil, nil)
	fuse := filepath.Join(string(s.host), "dev/fuse")
	if err != nil || len(c.Devices) != 2 || c.Devices[0].HostPath != fuse || c.Devices[0].ContainerPath != link || c.Devices[1].HostPath != fuse || c.Devices[1].ContainerPath != "/dev/f" {
		t.Errorf("%+v, %v", c.Devices, err)
	}
}

// The operator lets jobs have the graphics of a host's processor, and no other GPU. CUDA
// counts the granted GPUs as before.
func TestAllowedDevicesPassByNameAndByLink(t *testing.T) {
	s := confined(t, func(l *limits) { l.devices = []string{"/dev/dri/by-path/pci-0000:00:02.0-render", "/dev/kfd"} })
	root := string(s.host)
	tree{t, root}.node("dev/dri/renderD129", 0)
	links := filepath.Join(root, "dev/dri/by-path")
	if err := os.MkdirAll(links, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"pci-0000:00:02.0-render": "renderD128", "pci-0000:03:00.0-render": "renderD129"} {
		if err := os.Symlink("../"+to, filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, node := range map[string]string{
		"/dev/dri/renderD128":                      "/dev/dri/renderD128",
		"/dev/dri/by-path/pci-0000:00:02.0-render": "/dev/dri/renderD128",
		"/dev/kfd":            "/dev/kfd",
		"/dev/dri/renderD129": "", "/dev/dri/by-path/pci-0000:03:00.0-render": "", "/dev/dri": "", "/dev/dri/by-path": "", "/dev/nvidia3": "", "/dev": "",
	} {
		config, c, err := s.start(t, fmt.Sprintf(`{"image": "x:1", "devices": [{"host_path": %q}]}`, root+path), nil, reserved(wholeGrant()))
		if node == "" {
			if err == nil || !strings.Contains(err.Error(), "allowed_devices") {
				t.Errorf("%s: %v", path, err)
			}
			continue
		}
		if err != nil || len(c.Devices) != 1 || c.Devices[0].HostPath != root+node {
			t.Errorf("%s: %+v, %v, want %s", path, c.Devices, err, node)
		} else if cuda := config.Env["CUDA_VISIBLE_DEVICES"]; strings.HasPrefix(node, "/dev/dri") && cuda != "0" {
			t.Errorf("%s: CUDA_VISIBLE_DEVICES %q", path, cuda)
		}
	}
}

func TestAllowedDevicesAreNodes(t *testing.T) {
	for path, want := range map[string]string{"/dev/kfd": "", "dri/renderD128": "want the path of a device node", "/etc/passwd": "want the path of a device node", "/dev/dri": "which is a directory"} {
		c := DriverConfig{Root: string(confined(t, func(*limits) {}).host), RunDir: "/run/aliquot", CacheSocket: "/run/aliquot/cache.sock", MPSControl: "x", Attach: AttachAuto, DanglingCheck: DanglingOff, AttachmentTimeout: "1s", AllowedDevices: []string{path}}
		if _, err := c.settings(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// What else a job may say about security and devices stays as with the docker driver.
func TestHarmlessOptionsStay(t *testing.T) {
	s := confined(t, func(*limits) {})
	profile := filepath.Join(t.TempDir(), "profile.json")
	if err := os.WriteFile(profile, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, config := range []string{
		`"cgroupns": "private"`,
		`"security_opt": ["no-new-privileges", "no-new-privileges:true", "apparmor=unconfined", "apparmor:mine", "label=disable", "label:type:spc_t", "seccomp=unconfined", "seccomp:unconfined", "seccomp=builtin"]`,
		`"security_opt": ["seccomp=` + profile + `"]`,
		`"cap_add": ["NET_BIND_SERVICE"]`,
		`"devices": [{"host_path": "/dev/kvm"}, {"host_path": "/dev/net/tun"}, {"host_path": "/dev/infiniband"}, {"host_path": "/dev/sgx_enclave"}]`,
		`"pid_mode": "private"`, `"ipc_mode": "private"`, `"ipc_mode": "none"`, `"ipc_mode": "shareable"`,
	} {
		if _, _, err := s.start(t, `{"image": "x:1", `+config+`}`, nil, nil); err != nil {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// The docker driver reads a profile to its end.
func TestSeccompProfilesAreFilesOfASize(t *testing.T) {
	s := confined(t, func(l *limits) { l.ungranted, l.privileged = true, true })
	fifo, large := filepath.Join(t.TempDir(), "fifo"), filepath.Join(t.TempDir(), "large")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, make([]byte, maxProfile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for opt, want := range map[string]string{
		"seccomp=/dev/zero": "not a regular file", "seccomp:/dev/zero": "not a regular file", "seccomp=" + fifo: "not a regular file", "seccomp=" + large: "use one of at most 1048576",
		"seccomp=" + t.TempDir(): "not a regular file", "seccomp=/missing.json": "no such file", "seccomp": "no such file",
	} {
		_, _, err := s.start(t, fmt.Sprintf(`{"image": "x:1", "security_opt": [%q]}`, opt), nil, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", opt, err, want)
		}
	}
}

func TestNamespacesAreThoseOfAllowedModes(t *testing.T) {
	for _, option := range []string{"pid_mode", "ipc_mode", "uts_mode", "userns_mode"} {
		key := strings.TrimSuffix(option, "_mode")
		for _, c := range []struct {
			plugin, value string
			allowed       bool
		}{
			{`{}`, "", true},
			{`{}`, "host", false},
			{`{}`, "private", true},
			{`{}`, "none", true},
			{`{}`, "shareable", true},
			{`{}`, "ns:/proc/1/ns/pid", false},
			{`{}`, "container:x", false},
			{fmt.Sprintf(`{"allowed_modes": [{%q: ["private", "task*"]}]}`, key), "host", false},
			{fmt.Sprintf(`{"allowed_modes": [{%q: ["private", "task*"]}]}`, key), "task-1", true},
			{fmt.Sprintf(`{"allow_ungranted_gpus": true, "allowed_modes": [{%q: ["host"]}]}`, key), "host", true},
			{`{"allow_privileged": true, "allow_ungranted_gpus": true}`, "host", true},
		} {
			s, err := mustSettings(t, c.plugin)
			if err != nil {
				t.Fatal(err)
			}
			_, _, err = s.start(t, fmt.Sprintf(`{"image": "x:1", %q: %q}`, option, c.value), nil, nil)
			if (err == nil) != c.allowed || err != nil && !strings.Contains(err.Error(), "allowed_modes { "+key) {
				t.Errorf("%s = %q under %s: %v", option, c.value, c.plugin, err)
			}
		}
	}
}

// A task that must use its GPU fails where it has none.
func TestRequiredAttachmentNeedsAGrant(t *testing.T) {
	s := confined(t, func(*limits) {})
	if _, _, err := s.start(t, `{"image": "x:1", "require_attachment": true}`, nil, nil); err == nil || !strings.Contains(err.Error(), "granted no GPU") {
		t.Error(err)
	}
}
