package aliquot

import (
	"bytes"
	"encoding/binary"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/plugins/drivers"

	"os"
)

// driverLibraries are the libraries of NVIDIA's driver that programs load at run time and that must have
// the kernel driver's version. They are those of the capabilities "compute" and "utility" of NVIDIA's
// container toolkit. A name ends in "*" if the version is part of it.
var driverLibraries = []string{
	"libcuda.so.1", "libcudadebugger.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4",
	"libnvidia-nvvm70.so.4", "libnvidia-gpucomp.so.*", "libnvidia-ml.so.1",
}

// driverPrograms are mounted together with the libraries. They are looked up in programDirs.
var driverPrograms = []string{"nvidia-smi"}

var programDirs = []string{"/usr/bin", "/usr/sbin", "/opt/bin", "/bin"}

// platform has the properties of the dynamic linker's cache and directories for one architecture.
type platform struct {
	flags  uint32 // of its libraries in the cache, without the low byte
	triple string // Debian's name of the library folder
}

var platforms = map[string]platform{
	"amd64": {0x0300, "x86_64-linux-gnu"},
	"arm64": {0x0a00, "aarch64-linux-gnu"},
}

func (p platform) searchDirs() []string {
	return []string{
		"/usr/lib/" + p.triple, "/usr/lib64", "/usr/lib", "/lib/" + p.triple, "/lib64",
		"/usr/lib/" + p.triple + "/nvidia/current", "/usr/lib64/nvidia", "/run/opengl-driver/lib", "/opt/lib64",
	}
}

// containerDirs are the directories of libraries in the container: the default directories of the
// dynamic linkers of Debian and of Red Hat, which are searched without a cache, and the directory
// that NVIDIA's images have in LD_LIBRARY_PATH, for programs that search it themselves.
func (p platform) containerDirs() []string {
	return []string{"/usr/lib/" + p.triple, "/usr/lib64", "/usr/local/nvidia/lib64"}
}

// libraryMounts returns read-only mounts of the host's driver libraries and
// programs. A host without them gets none.
func (h host) libraryMounts() []*drivers.MountConfig {
	p := platforms[runtime.GOARCH]
	var out []*drivers.MountConfig
	add := func(from, to string) {
		out = append(out, &drivers.MountConfig{HostPath: h.path(from), TaskPath: to, Readonly: true})
	}
	for name, from := range h.findLibraries(p) {
		for _, dir := range p.containerDirs() {
			add(from, path.Join(dir, name))
		}
	}
	for _, program := range driverPrograms {
		for _, dir := range programDirs {
			if from := path.Join(dir, program); h.exists(from) {
				add(from, path.Join("/usr/bin", program))
				break
			}
		}
	}
	slices.SortFunc(out, func(a, b *drivers.MountConfig) int { return strings.Compare(a.TaskPath, b.TaskPath) })
	return out
}

// findLibraries maps the names of the driver's libraries to their paths on the
// host: from the dynamic linker's cache, else from the usual folders.
func (h host) findLibraries(p platform) map[string]string {
	out := map[string]string{}
	cache, _ := os.ReadFile(h.path("/etc/ld.so.cache"))
	for _, lib := range readCache(cache, p.flags) {
		if isDriverLibrary(lib.name) && out[lib.name] == "" && h.exists(lib.path) {
			out[lib.name] = lib.path
		}
	}
	for _, dir := range p.searchDirs() {
		for _, pattern := range driverLibraries {
			found, _ := filepath.Glob(h.path(dir, pattern))
			for _, file := range found {
				if name := filepath.Base(file); out[name] == "" {
					out[name] = path.Join(dir, name)
				}
			}
		}
	}
	return out
}

func isDriverLibrary(name string) bool {
	return slices.ContainsFunc(driverLibraries, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

type library struct{ name, path string }

// readCache reads the libraries of one architecture from the dynamic linker's
// cache in the format of glibc 2.2 and later (sysdeps/generic/dl-cache.h): a
// header of 48 bytes, entries of 24, then the texts that entries point to. What
// cannot be read is left out.
func readCache(cache []byte, flags uint32) []library {
	const header, entry = 48, 24
	start := bytes.Index(cache, []byte("glibc-ld.so.cache1.1"))
	if start < 0 || len(cache)-start < header {
		return nil
	}
	cache = cache[start:]
	order := binary.NativeEndian
	count := int(order.Uint32(cache[20:]))
	if count < 0 || count > (len(cache)-header)/entry {
		return nil
	}
	text := func(offset uint32) string {
		if int64(offset) >= int64(len(cache)) {
			return ""
		}
		s, _, _ := bytes.Cut(cache[offset:], []byte{0})
		return string(s)
	}
	var out []library
	for i := range count {
		e := cache[header+i*entry:]
		if order.Uint32(e)&0xff00 != flags {
			continue
		}
		name, file := text(order.Uint32(e[4:])), text(order.Uint32(e[8:]))
		if name != "" && path.IsAbs(file) {
			out = append(out, library{name, file})
		}
	}
	return out
}
