package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Server ports are below the kernel's ephemeral range, so that no outgoing connection takes a port
// between its choice and its use. Nomad's dynamic ports come from a separate block above the server
// ports.
const (
	firstPort, lastPort = 10_000, 19_999
	firstBlock, blocks  = 20_000, 24
	blockSize           = 500
)

// given are the ports that this process has been given, so that none is given twice. A server may
// not listen yet, or be about to start again.
var given struct {
	sync.Mutex
	ports map[int]bool
}

// FreePorts returns n ports on which nothing listens, over TCP or UDP, and that it has not returned
// before.
func FreePorts(n int) ([]int, error) {
	given.Lock()
	defer given.Unlock()
	if given.ports == nil {
		given.ports = map[int]bool{}
	}
	var ports []int
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if !given.ports[port] && free(port) {
			given.ports[port] = true
			ports = append(ports, port)
		}
		if len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("found no %d free ports in %d-%d", n, firstPort, lastPort)
}

func free(port int) bool {
	tcp, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	return udp.Close() == nil
}

// dynamicPorts returns the bounds of a block of ports for Nomad's dynamic ports.
func dynamicPorts() (low, high int) {
	low = firstBlock + rand.IntN(blocks)*blockSize
	return low, low + blockSize - 1
}
