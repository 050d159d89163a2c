package aliquot

import (
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// hardware is a kind of hardware, other than GPUs, that a program can control through a character
// device, bypassing file systems and drivers.
type hardware struct {
	is string
	// nodes are patterns of device nodes and of folders of them.
	nodes []string
	// majors are patterns of names in /proc/devices. A node with such a major number is of this
	// kind, whatever its path is.
	majors []string
}

const hostMemory = "is the host's memory"

// hostHardware comes from the kernel's admin-guide/devices.txt and from the names that its drivers
// register: drivers/scsi (sg, st, bsg), nvme, mtd, vfio, uio, char/ipmi, char/mem.
var hostHardware = []hardware{
	{"is a disk of the host, or its controller",
		[]string{"/dev/sg[0-9]*", "/dev/bsg", "/dev/nvme*", "/dev/ng[0-9]*", "/dev/raw", "/dev/mtd*", "/dev/st[0-9]*",
			"/dev/nst[0-9]*", "/dev/megaraid*", "/dev/mpt[0-9]*ctl"},
		[]string{"sg", "bsg", "nvme", "nvme-generic", "raw", "mtd", "st", "megaraid*", "aac", "hpsa*"}},
	{"passes hardware of the host through, GPUs among it",
		[]string{"/dev/vfio", "/dev/iommu", "/dev/uio[0-9]*"},
		[]string{"vfio*", "uio"}},
	{"is the host's management controller",
		[]string{"/dev/ipmi*"},
		[]string{"ipmi*"}},
	{hostMemory,
		[]string{"/dev/mem", "/dev/kmem", "/dev/port", "/dev/cpu/*/msr"},
		[]string{"cpu/msr"}},
}

// filesOfTasks are directories of /dev in which containers that share them can create files, including
// device nodes and links.
var filesOfTasks = []string{"/dev/shm", "/dev/mqueue", "/dev/hugepages"}

// hardwareAt returns what hardware the path of a device node belongs to, or "".
func hardwareAt(p string) string {
	for ; p != "/" && p != "."; p = path.Dir(p) {
		for _, k := range hostHardware {
			if matches(k.nodes, p) {
				return k.is
			}
		}
	}
	return ""
}

// hardwareOf returns what hardware the number of a character device belongs to, or "".
func (h host) hardwareOf(rdev uint64) string {
	// The driver mem has the minors 1, 2 and 4 for mem, kmem and port; others are null, zero etc.
	if major(rdev) == 1 && slices.Contains([]uint32{1, 2, 4}, minor(rdev)) {
		return hostMemory
	}
	for _, name := range h.characterDrivers()[major(rdev)] {
		for _, k := range hostHardware {
			if matches(k.majors, name) {
				return k.is
			}
		}
	}
	return ""
}

// characterDrivers returns the names under which the kernel lists the major numbers of
// character devices.
func (h host) characterDrivers() map[uint32][]string {
	out := map[uint32][]string{}
	list, err := os.ReadFile(h.path("/proc/devices"))
	if err != nil {
		return out
	}
	characters, _, _ := strings.Cut(string(list), "Block devices:")
	for line := range strings.Lines(characters) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		if n, err := strconv.ParseUint(f[0], 10, 32); err == nil {
			out[uint32(n)] = append(out[uint32(n)], f[1])
		}
	}
	return out
}

// major and minor decode a device number of Linux.
func major(rdev uint64) uint32 { return uint32(rdev>>8&0xfff | rdev>>32&^0xfff) }
func minor(rdev uint64) uint32 { return uint32(rdev&0xff | rdev>>12&^0xff) }
