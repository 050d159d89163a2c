package host

import (
	"os"
	"path/filepath"
	"testing"
)

// The switch above a device is read from where the kernel's link leads to.
func TestPCISwitch(t *testing.T) {
	for target, want := range map[string]string{
		"../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0":                                               "", // on a port of the processor
		"../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0":                                  "", // behind a bridge
		"../../../devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:00.0/0000:18:00.0":                     "0000:16:00.0",
		"../../../devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:17:02.0/0000:19:00.0/0000:1a:00.0/0000:b": "0000:16:00.0",
		"../../../devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00/47505500-0001/pci0001:00/0001:00:00.0": "", // of a virtual machine
		"": "",
	} {
		r := Root(t.TempDir())
		link := r.Path(PCIDevices, "0000:18:00.0")
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			t.Fatal(err)
		}
		if target != "" {
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.PCISwitch("0000:18:00.0"); got != want {
			t.Errorf("%s: switch %q, want %q", target, got, want)
		}
	}
}
