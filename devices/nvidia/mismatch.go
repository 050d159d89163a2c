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

// mismatch says why tasks that start now could not use the driver, "" when they can:
// its packages were upgraded while its module is loaded, and a program's libraries
// must be of the module's own version. Tasks that run have the old ones open.
// Configured is the library that the configuration names, "" for none: tasks are then
// given those beside it, and what else is installed says nothing.
func mismatch(root, configured string) string {
	loaded, installed := moduleVersion(root), libraryVersion(root)
	if configured != "" {
		installed = versionBeside(configured)
	}
	if loaded == "" || installed == "" || loaded == installed {
		return ""
	}
	return fmt.Sprintf("the driver's libraries on this host are %s and its loaded kernel module is %s: "+
		"programs that start now fail; drain and reboot, or load the module again while no GPU is in use",
		installed, loaded)
}

var kernelModule = regexp.MustCompile(`Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)`)

// moduleVersion is the version of the loaded kernel module, "" when it is unknown.
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

// libraryVersion is the version of the libraries that tasks would be given: it is
// in the name of the file behind the library's link. "" when it is unknown.
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

// versionBeside is libraryVersion for the libraries in the folder of one. A link that
// leads out of it, as one of a driver's container may on the host, says nothing.
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
