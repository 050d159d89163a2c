package nvidia

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	machine "aliquot.example/internal/host"
)

// mismatch returns why new tasks could not use the driver, or "" if they can. They cannot if the
// driver's packages were upgraded while the old module stays loaded, because a program's libraries must
// have the module's version. Running tasks still have the old libraries open. configured is the library
// that the configuration names, or "". If it is set, tasks get the libraries beside it, and other
// installed libraries do not matter.
func mismatch(root, configured string) string {
	loaded, installed := moduleVersion(root), libraryVersion(root)
	if configured != "" {
		installed = versionBeside(configured)
	}
	if loaded == "" || installed == "" || loaded == installed {
		return ""
	}
	return fmt.Sprintf("the driver's libraries on this host are %s and its loaded kernel module is %s: "+
		"new programs fail; drain and reboot the node, or reload the module while no GPU is in use",
		installed, loaded)
}

var kernelModule = regexp.MustCompile(`Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)`)

// moduleVersion returns the version of the loaded kernel module, "" if it is unknown.
func moduleVersion(root string) string {
	if text, err := os.ReadFile(filepath.Join(root, "sys/module/nvidia/version")); err == nil {
		return string(bytes.TrimSpace(text))
	}
	text, _ := os.ReadFile(filepath.Join(root, "proc/driver/nvidia/version"))
	if m := kernelModule.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return ""
}

// libraryVersion returns the version of the libraries that tasks would get, "" if it is unknown. The
// version is part of the name of the file to which the library's link points.
func libraryVersion(root string) string {
	for _, name := range []string{"libcuda.so.1", soname} {
		for _, dir := range machine.Libraries {
			if v := machine.LibraryVersion(machine.Root(root).Behind(filepath.Join(dir, name))); v != "" {
				return v
			}
		}
	}
	return ""
}

// versionBeside is like libraryVersion, for the libraries in the same directory as library. It ignores
// links that lead out of the directory, as links of a driver's container may do on the host.
func versionBeside(library string) string {
	dir := filepath.Dir(library)
	for _, name := range []string{"libcuda.so.1", filepath.Base(library)} {
		file := machine.Running.Behind(filepath.Join(dir, name))
		if v := machine.LibraryVersion(file); v != "" && strings.HasPrefix(file, dir+"/") {
			return v
		}
	}
	return ""
}
