package aliquot

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/drivers"
	"pgregory.net/rapid"

	"aliquot.example/internal/gpu"
)

func attachSettings(root tree, attach string) settings {
	return settings{host: root.host(), runDir: "/run/aliquot", attach: attach, runtime: "nvidia", cdiDirs: []string{"/etc/cdi", "/var/run/cdi"}}
}

func wholeGrant() gpu.Grant {
	g := mpsGrant("")
	g.Sharing, g.Enforcement, g.Slices, g.Total = gpu.SharingNone, gpu.EnforceNone, 1, 1
	return g
}

const cdiText = `
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
  - name: all
    containerEdits:
      deviceNodes: [{path: /dev/nvidia0}, {path: /dev/nvidia3}]
  - name: "0"
    containerEdits:
      deviceNodes: [{path: /dev/nvidia0}]
  - name: "1"
    containerEdits:
      deviceNodes: [{path: /dev/nvidia3}]
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void, FROM_CDI=yes]
  deviceNodes: [{path: /dev/nvidiactl}, {path: /dev/nvidia-uvm}, {path: /dev/modeset, hostPath: /dev/nvidia-uvm-tools}]
  mounts: [{hostPath: /run/nvidia-persistenced/socket, containerPath: /run/nvidia-persistenced/socket, options: [ro, nosuid]}]
  hooks: [{hookName: createContainer, path: /usr/bin/nvidia-cdi-hook}]
`

func TestAutoTakesTheFirstWayThatTheHostHas(t *testing.T) {
	plain := nvidiaTree(t)
	cdi := nvidiaTree(t)
	cdi.file("etc/cdi/nvidia.yaml", cdiText)
	cdi.file("run/nvidia-persistenced/socket", "")
	stale := nvidiaTree(t)
	stale.file("etc/cdi/nvidia.yaml", cdiText)
	for name, c := range map[string]struct {
		root     tree
		attach   string
		runtimes []string
		task     docker.TaskConfig
		want     string
	}{
		"runtime first":             {cdi, AttachAuto, []string{"runc", "nvidia"}, docker.TaskConfig{}, AttachRuntime},
		"job's own runtime":         {plain, AttachAuto, []string{"runc", "nvidia"}, docker.TaskConfig{Runtime: "kata"}, AttachNodes},
		"then CDI":                  {cdi, AttachAuto, []string{"runc"}, docker.TaskConfig{}, AttachCDI},
		"not a stale CDI":           {stale, AttachAuto, nil, docker.TaskConfig{}, AttachNodes},
		"then nodes":                {plain, AttachAuto, nil, docker.TaskConfig{}, AttachNodes},
		"nodes where configured so": {cdi, AttachNodes, []string{"nvidia"}, docker.TaskConfig{}, AttachNodes},
	} {
		a, err := attachSettings(c.root, c.attach).attachTo(wholeGrant(), TaskConfig{TaskConfig: c.task}, c.runtimes)
		if err != nil || a.how != c.want {
			t.Errorf("%s: %s, %v; want %s", name, a.how, err, c.want)
		}
		visible := map[bool]string{true: "GPU-1", false: "void"}[c.want == AttachRuntime]
		if a.env[visibleDevices] != visible {
			t.Errorf("%s: %s is %q, want %q", name, visibleDevices, a.env[visibleDevices], visible)
		}
	}
	if _, err := attachSettings(stale, AttachCDI).attachTo(wholeGrant(), TaskConfig{}, nil); err == nil || !strings.Contains(err.Error(), "nvidia-ctk cdi generate") {
		t.Errorf("stale CDI: %v", err)
	}
	broken := nvidiaTree(t)
	broken.file("etc/cdi/nvidia.json", "{")
	if _, err := attachSettings(broken, AttachCDI).attachTo(wholeGrant(), TaskConfig{}, nil); err == nil || !strings.Contains(err.Error(), "etc/cdi/nvidia.json") {
		t.Errorf("broken CDI: %v", err)
	}
}

func TestCDIBringsTheGrantedDeviceOnly(t *testing.T) {
	r := nvidiaTree(t)
	r.file("etc/cdi/nvidia.yaml", cdiText)
	r.file("run/nvidia-persistenced/socket", "")
	a, err := attachSettings(r, AttachCDI).attachTo(wholeGrant(), TaskConfig{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/modeset", "/dev/nvidia0", "/dev/nvidia-uvm-tools"}; !slices.Equal(paths(a.nodes), want) {
		t.Errorf("nodes %v, want %v", paths(a.nodes), want)
	}
	if len(a.mounts) != 1 || !a.mounts[0].Readonly || a.mounts[0].HostPath != filepath.Join(r.dir, "run/nvidia-persistenced/socket") {
		t.Errorf("mounts %+v", a.mounts)
	}
	if a.env["FROM_CDI"] != "yes" || a.env[visibleDevices] != "void" {
		t.Errorf("env %v", a.env)
	}
}

func TestMPSMountsPipeAndSharedMemory(t *testing.T) {
	r := nvidiaTree(t)
	r.file("dev/shm/x", "")
	run := t.TempDir()
	pipe := pipeDir(t, run)
	s := attachSettings(r, AttachAuto)
	s.runDir = run
	targets := func(c docker.TaskConfig, runtimes ...string) ([]string, error) {
		a, err := s.attachTo(mpsGrant(pipe), TaskConfig{TaskConfig: c}, runtimes)
		var out []string
		for _, m := range a.mounts {
			out = append(out, m.TaskPath)
		}
		return out, err
	}
	for name, c := range map[string]struct {
		task     docker.TaskConfig
		runtimes []string
		want     []string
	}{
		"nodes":    {docker.TaskConfig{}, nil, []string{pipe, "/dev/shm"}},
		"runtime":  {docker.TaskConfig{}, []string{"nvidia"}, []string{pipe, "/dev/shm"}},
		"host ipc": {docker.TaskConfig{IPCMode: "host"}, nil, []string{pipe}},
	} {
		if got, err := targets(c.task, c.runtimes...); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	shmOf := func(c docker.TaskConfig) string {
		a, err := s.attachTo(mpsGrant(pipe), TaskConfig{TaskConfig: c}, nil)
		if err != nil || len(a.mounts) != 2 {
			t.Fatalf("%+v, %v", a.mounts, err)
		}
		return a.mounts[1].HostPath
	}
	if got, want := shmOf(docker.TaskConfig{}), filepath.Join(r.dir, "dev/shm"); got != want {
		t.Errorf("a daemon on the host's shared memory: %s, want %s", got, want)
	}
	// The device plugin has mounted the GPU's own.
	own := filepath.Join(filepath.Dir(pipe), "shm")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []docker.TaskConfig{{}, {IPCMode: "host"}} {
		if got := shmOf(c); got != own {
			t.Errorf("a daemon with shared memory of its GPU: %s, want %s", got, own)
		}
	}
	if _, err := targets(docker.TaskConfig{Mounts: []docker.DockerMount{{Type: "tmpfs", Target: "/dev/shm/"}}}); err == nil || !strings.Contains(err.Error(), "mounts /dev/shm itself") {
		t.Errorf("a mount of the job's own: %v", err)
	}
}

// Reserve may return nodes and mounts for the stock drivers, and a job may mount
// a file of its own over one of the driver's: the engine refuses two at one place.
func TestNothingIsMountedTwice(t *testing.T) {
	r := nvidiaTree(t)
	r.file("usr/bin/nvidia-smi", "")
	run := t.TempDir()
	pipe := pipeDir(t, run)
	s := attachSettings(r, AttachAuto)
	s.runDir, s.timeout = run, patience
	_, schema := schemas(t)
	cfg := newJob(t, schema, `{"image": "x:1", "volumes": ["local/smi:/usr/bin/nvidia-smi"]}`, reserved(mpsGrant(pipe)), nil)
	cfg.Mounts = []*drivers.MountConfig{{HostPath: "/elsewhere", TaskPath: pipe}, {HostPath: "/data", TaskPath: "/data"}}
	cfg.Devices = []*drivers.DeviceConfig{{HostPath: "/dev/nvidia0", TaskPath: "/dev/nvidia0", Permissions: "rwm"}}
	got, err := s.prepare(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	from := map[string][]string{}
	for _, m := range got.config.Mounts {
		from[m.TaskPath] = append(from[m.TaskPath], m.HostPath)
	}
	for _, d := range got.config.Devices {
		from[d.TaskPath] = append(from[d.TaskPath], d.HostPath)
	}
	for path, want := range map[string][]string{
		pipe: {pipe}, "/data": {"/data"}, "/usr/bin/nvidia-smi": nil, "/dev/nvidia0": {filepath.Join(r.dir, "dev/nvidia0")},
	} {
		if !slices.Equal(from[path], want) {
			t.Errorf("%s comes from %v, want %v", path, from[path], want)
		}
	}
	if len(cfg.Mounts) != 2 || len(cfg.Devices) != 1 || cfg.DeviceEnv["NVIDIA_VISIBLE_DEVICES"] == "" {
		t.Errorf("Nomad's own copy of the task was changed: %+v", cfg)
	}
}

// The docker driver asks for NVIDIA's runtime exactly where DeviceEnv says so.
func TestRuntimeIsAskedForOnlyWhereItInjects(t *testing.T) {
	r := nvidiaTree(t)
	_, schema := schemas(t)
	for how, want := range map[string]bool{AttachRuntime: true, AttachNodes: false} {
		s := attachSettings(r, how)
		s.timeout = patience
		got, err := s.prepare(newJob(t, schema, `{"image": "x:1"}`, reserved(wholeGrant()), nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, asked := got.config.DeviceEnv[visibleDevices]; asked != want {
			t.Errorf("%s: %v", how, got.config.DeviceEnv)
		}
	}
}

// Whatever a job, a template or a variant says, what holds the task inside its
// grant is as reserved.
func TestLimitsCannotBeOverridden(t *testing.T) {
	keys := rapid.SampledFrom([]string{"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_VISIBLE_DEVICES", "HSA_CU_MASK", "NVIDIA_VISIBLE_DEVICES", "OWN"})
	values := rapid.MapOf(keys, rapid.StringMatching(`[a-z0-9]{1,4}`))
	rapid.Check(t, func(t *rapid.T) {
		job, ofVariant, device := values.Draw(t, "job"), values.Draw(t, "variant"), values.Draw(t, "device")
		got := environment(job, ofVariant, device, attachment{env: map[string]string{visibleDevices: visibleNone}})
		for k, v := range device {
			if k != visibleDevices && got[k] != v {
				t.Fatalf("%s is %q, reserved %q", k, got[k], v)
			}
		}
		if got[visibleDevices] != visibleNone {
			t.Fatalf("%s is %q", visibleDevices, got[visibleDevices])
		}
	})
}

func TestLibrariesFromFoldersAndCache(t *testing.T) {
	p := platforms[runtime.GOARCH]
	r := tree{t, t.TempDir()}
	r.file("usr/lib64/libcuda.so.550.54.15", "")
	if err := os.Symlink("libcuda.so.550.54.15", filepath.Join(r.dir, "usr/lib64/libcuda.so.1")); err != nil {
		t.Fatal(err)
	}
	r.file("usr/lib64/libnvidia-gpucomp.so.550.54.15", "")
	r.file("opt/driver/libnvidia-ml.so.1", "")
	r.file("usr/bin/nvidia-smi", "")
	r.file("etc/ld.so.cache", string(cacheOf(p.flags, library{"libnvidia-ml.so.1", "/opt/driver/libnvidia-ml.so.1"}, library{"libcudadebugger.so.1", "/gone/libcudadebugger.so.1"})))
	got := map[string]string{}
	for _, m := range r.host().libraryMounts() {
		if !m.Readonly {
			t.Errorf("%s can be written", m.TaskPath)
		}
		got[m.TaskPath] = strings.TrimPrefix(m.HostPath, r.dir)
	}
	for to, from := range map[string]string{
		"/usr/lib64/libcuda.so.1": "/usr/lib64/libcuda.so.1", "/usr/local/nvidia/lib64/libcuda.so.1": "/usr/lib64/libcuda.so.1",
		"/usr/lib64/libnvidia-gpucomp.so.550.54.15":   "/usr/lib64/libnvidia-gpucomp.so.550.54.15",
		"/usr/lib/" + p.triple + "/libnvidia-ml.so.1": "/opt/driver/libnvidia-ml.so.1",
		"/usr/bin/nvidia-smi":                         "/usr/bin/nvidia-smi",
	} {
		if got[to] != from {
			t.Errorf("%s comes from %q, want %q", to, got[to], from)
		}
	}
	if len(got) != 3*3+1 {
		t.Errorf("%d mounts: %v", len(got), got)
	}
}

// cacheOf writes a dynamic linker's cache.
func cacheOf(flags uint32, libs ...library) []byte {
	order := binary.NativeEndian
	out := make([]byte, 48+24*len(libs))
	copy(out, "glibc-ld.so.cache1.1")
	order.PutUint32(out[20:], uint32(len(libs)))
	for i, lib := range libs {
		e := 48 + 24*i
		order.PutUint32(out[e:], flags|3)
		order.PutUint32(out[e+4:], uint32(len(out)))
		out = append(out, lib.name+"\x00"...)
		order.PutUint32(out[e+8:], uint32(len(out)))
		out = append(out, lib.path+"\x00"...)
	}
	return out
}

// The linker's own tool prints what the cache of this machine holds.
func TestCacheIsReadAsLdconfigReadsIt(t *testing.T) {
	cache, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		t.Skip("this machine has no dynamic linker's cache")
	}
	printed, err := exec.Command("/sbin/ldconfig", "-p").Output()
	if err != nil {
		t.Skip("no ldconfig here")
	}
	libs := readCache(cache, platforms[runtime.GOARCH].flags)
	if len(libs) == 0 {
		t.Fatal("no library was read")
	}
	for _, lib := range libs {
		if !strings.Contains(string(printed), fmt.Sprintf("%s (", lib.name)) || !strings.Contains(string(printed), "=> "+lib.path+"\n") {
			t.Errorf("ldconfig does not know %+v", lib)
		}
	}
}

func FuzzReadCache(f *testing.F) {
	f.Add(cacheOf(0x300, library{"libcuda.so.1", "/usr/lib/libcuda.so.1"}))
	f.Fuzz(func(t *testing.T, cache []byte) {
		for _, lib := range readCache(cache, 0x300) {
			if lib.name == "" || !filepath.IsAbs(lib.path) {
				t.Fatalf("%+v", lib)
			}
		}
	})
}

// CUDA counts the granted GPUs from 0 where the container holds no other, whatever the
// device plugin reserved and the job says.
func TestCUDACountsGrantedGPUs(t *testing.T) {
	s := confined(t, func(l *limits) { l.privileged, l.ungranted = true, true })
	two := wholeGrant()
	two.GPUs, two.PCI = append(two.GPUs, "GPU-4"), append(two.PCI, "0000:3b:00.0")
	mig := migGrant("7/0")
	for name, c := range map[string]struct {
		grant        gpu.Grant
		config, want string
	}{
		"whole":      {wholeGrant(), "", "0"},
		"two":        {two, "", "0,1"},
		"MPS":        {mpsGrant(pipeDir(t, s.runDir)), "", "0"},
		"MIG":        {mig, "", ""},
		"privileged": {two, `, "privileged": true`, "GPU-1,GPU-4"},
		"more nodes": {two, `, "devices": [{"host_path": "/dev/nvidia7"}]`, "GPU-1,GPU-4"},
		"other node": {two, `, "devices": [{"host_path": "/dev/null"}]`, "0,1"},
	} {
		env := reserved(c.grant)
		var ids []string
		for _, id := range c.grant.GPUs {
			ids = append(ids, string(id))
		}
		env["CUDA_VISIBLE_DEVICES"] = strings.Join(ids, ",")
		cfg, _, err := s.start(t, `{"image": "x:1"`+c.config+`}`, map[string]string{"CUDA_VISIBLE_DEVICES": "7"}, env)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, set := cfg.Env["CUDA_VISIBLE_DEVICES"]; got != c.want || set != (c.want != "") {
			t.Errorf("%s: %q (set: %v), want %q", name, got, set, c.want)
		}
	}
}

// NVIDIA's runtime alone would leave the nodes unknown to systemd, which takes them from
// a running container at its next reload: the engine is asked for them as well.
func TestNodesByTheRuntimeAreKnownToTheEngine(t *testing.T) {
	s := confined(t, func(*limits) {})
	s.attach = AttachRuntime
	cfg, _, err := s.start(t, `{"image": "x:1"}`, nil, reserved(wholeGrant()))
	if err != nil {
		t.Fatal(err)
	}
	if got := paths(cfg.Devices); !slices.Contains(got, "/dev/nvidia0") || !slices.Contains(got, "/dev/nvidiactl") || slices.Contains(got, "/dev/nvidia3") {
		t.Errorf("nodes %v", got)
	}
	if cfg.DeviceEnv[visibleDevices] != "GPU-1" {
		t.Errorf("the runtime is asked for %q", cfg.DeviceEnv[visibleDevices])
	}
	unknown := wholeGrant()
	unknown.PCI = []string{"0000:99:00.0"}
	if _, _, err := s.start(t, `{"image": "x:1"}`, nil, reserved(unknown)); err != nil {
		t.Errorf("a host whose nodes cannot be told: %v", err)
	}
}
