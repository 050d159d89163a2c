package amd

import (
	"debug/elf"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/ebitengine/purego"
	"golang.org/x/sys/unix"
)

// handle is an opaque pointer of the library.
type handle uintptr

// symbols are the functions of the library. A field is nil if this release does not have the function,
// since releases add and remove functions.
type symbols struct {
	Init          func(flags uint64) int32                               `sym:"amdsmi_init"`
	ShutDown      func() int32                                           `sym:"amdsmi_shut_down"`
	Version       func(out *byte) int32                                  `sym:"amdsmi_get_lib_version"`
	Sockets       func(count *uint32, out *handle) int32                 `sym:"amdsmi_get_socket_handles"`
	Processors    func(socket handle, count *uint32, out *handle) int32  `sym:"amdsmi_get_processor_handles"`
	ProcessorType func(h handle, out *int32) int32                       `sym:"amdsmi_get_processor_type"`
	BDF           func(h handle, out *uint64) int32                      `sym:"amdsmi_get_gpu_device_bdf"`
	ASIC          func(h handle, out *byte) int32                        `sym:"amdsmi_get_gpu_asic_info"`
	VRAM          func(h handle, out *byte) int32                        `sym:"amdsmi_get_gpu_vram_info"`
	VRAMUsage     func(h handle, out *byte) int32                        `sym:"amdsmi_get_gpu_vram_usage"`
	Activity      func(h handle, out *byte) int32                        `sym:"amdsmi_get_gpu_activity"`
	Power         func(h handle, out *byte) int32                        `sym:"amdsmi_get_power_info"`
	Temperature   func(h handle, sensor, metric int32, out *int64) int32 `sym:"amdsmi_get_temp_metric"`
	ECC           func(h handle, out *byte) int32                        `sym:"amdsmi_get_gpu_total_ecc_count"`
	BadPages      func(h handle, count *uint32, out *byte) int32         `sym:"amdsmi_get_gpu_bad_page_info"`
	BadPageLimit  func(h handle, out *uint32) int32                      `sym:"amdsmi_get_gpu_bad_page_threshold"`
	EventsOpen    func(h handle) int32                                   `sym:"amdsmi_init_gpu_event_notification"`
	EventsMask    func(h handle, mask uint64) int32                      `sym:"amdsmi_set_gpu_event_notification_mask"`
	Events        func(millis int32, count *uint32, out *byte) int32     `sym:"amdsmi_get_gpu_event_notification"`
	EventsClose   func(h handle) int32                                   `sym:"amdsmi_stop_gpu_event_notification"`
}

// bind looks up every symbol in an opened library.
func bind(lib uintptr) *symbols {
	s := &symbols{}
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("sym")
		if address, err := purego.Dlsym(lib, name); err == nil && address != 0 {
			purego.RegisterFunc(v.Field(i).Addr().Interface(), address)
		}
	}
	return s
}

// errNoLibrary means that there is no AMD SMI library in the usual places.
var errNoLibrary = errors.New("no AMD SMI library")

// libraries lists the names and paths at which the library is looked for, in order. The dynamic linker
// resolves plain names (LD_LIBRARY_PATH, ld.so.cache).
func (m machine) libraries(configured string) []string {
	if configured != "" {
		return []string{configured}
	}
	out := []string{}
	for major := 27; major >= 24; major-- {
		out = append(out, fmt.Sprintf("libamd_smi.so.%d", major))
	}
	out = append(out, "libamd_smi.so")
	for _, pattern := range []string{"opt/rocm/lib", "opt/rocm/lib64", "opt/rocm-*/lib"} {
		dirs, _ := filepath.Glob(m.Path(pattern))
		slices.Sort(dirs)
		slices.Reverse(dirs)
		for _, dir := range dirs {
			out = append(out, filepath.Join(dir, "libamd_smi.so"))
		}
	}
	return out
}

// open loads the first library that exists. It fails with errNoLibrary if there is none, and with the
// linker's reason if none of those that exist can be loaded.
func (m machine) open(configured string) (*symbols, string, error) {
	protectStdout()
	var broken []string
	for _, name := range m.libraries(configured) {
		lib, err := purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
		if err == nil {
			return bind(lib), name, nil
		}
		if why := foreign(name); why != "" {
			broken = append(broken, why)
		} else if configured != "" || !missing(err.Error(), name) {
			broken = append(broken, strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	if broken != nil {
		return nil, "", errors.New(strings.Join(broken, "; "))
	}
	return nil, "", errNoLibrary
}

// foreign returns an error text if a library is for another architecture, for which the linker's reason
// is "no such file". It returns "" if the library is not, or cannot be read as a file.
func foreign(path string) string {
	own, known := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[runtime.GOARCH]
	f, err := elf.Open(path)
	if err != nil || !known {
		return ""
	}
	defer f.Close()
	if f.Machine == own {
		return ""
	}
	return fmt.Sprintf("%s is built for %s and this host is %s: install ROCm for this architecture",
		path, f.Machine, own)
}

// missing reports whether the linker found no library with that name. It is false if the linker found
// one whose dependency is missing.
func missing(reason, name string) bool {
	return strings.Contains(reason, name+": cannot open shared object file: No such file or directory")
}

// protectStdout redirects the library's standard output to standard error. A plugin uses standard
// output for its handshake with Nomad. The handshake is over when the library is loaded, but Nomad
// would still take a line of the library for one of the plugin.
var protectStdout = sync.OnceFunc(func() {
	_ = unix.Dup3(2, 1, 0)
})
