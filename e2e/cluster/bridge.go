package cluster

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bridgeSubnet returns a range of addresses for the tasks of one cluster. If two clusters used
// Nomad's default range, both bridges would have the same address and packets for the tasks of one
// cluster could go to the other. taken reports whether an interface has an address in the range.
func bridgeSubnet(dir string, taken func(*net.IPNet) bool) (string, error) {
	hash := fnv.New32a()
	hash.Write([]byte(tag(dir)))
	first := hash.Sum32()
	for i := range uint32(256) {
		subnet := &net.IPNet{IP: net.IPv4(172, 26, byte(first+i), 0).To4(), Mask: net.CIDRMask(24, 32)}
		if !taken(subnet) {
			return subnet.String(), nil
		}
	}
	return "", errors.New("every /24 of 172.26.0.0/16 overlaps an address of this host; tasks in bridge mode need one")
}

// overlapsHost reports whether an interface of the host has an address in the range.
func overlapsHost(subnet *net.IPNet) bool {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addresses, func(a net.Addr) bool {
		own, ok := a.(*net.IPNet)
		return ok && (own.Contains(subnet.IP) || subnet.Contains(own.IP))
	})
}

// removeBridge deletes the bridge that Nomad created for tasks in bridge mode. Nomad keeps it on
// purpose; a test must not.
func removeBridge(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil // no task used bridge mode
	}
	if err := removeRules(name); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	// The kernel deletes a bridge only when it is down.
	request.SetUint16(0)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	pointer, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if err := deleteBridge(socket, pointer); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	return nil
}

// deleteBridge asks the kernel to delete a bridge by name.
func deleteBridge(socket int, name *byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCBRDELBR, uintptr(unsafe.Pointer(name)))
	if errno != 0 {
		return errno
	}
	return nil
}

// removeRules deletes the firewall rules that Nomad added for the bridge in its own chain.
func removeRules(bridge string) error {
	rules, err := exec.Command("iptables", "-S", "NOMAD-ADMIN").Output()
	if err != nil {
		return nil // no such chain, no rules
	}
	for rule := range strings.Lines(string(rules)) {
		fields := strings.Fields(rule)
		if len(fields) == 0 || fields[0] != "-A" || !slices.Contains(fields, bridge) {
			continue
		}
		fields[0] = "-D"
		if out, err := exec.Command("iptables", fields...).CombinedOutput(); err != nil {
			return fmt.Errorf("iptables %s: %w: %s", strings.Join(fields, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
