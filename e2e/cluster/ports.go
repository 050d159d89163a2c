package cluster

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Server ports are below the kernel's ephemeral range, so that no outgoing connection takes a port
// between its choice and its use. Nomad's dynamic ports come from a separate block above the server
// ports.
const (
	firstPort, lastPort = 10_000, 19_999
	firstBlock, blocks  = 20_000, 24
	blockSize           = 500
)

// FreePorts returns n ports on which nothing listens, over TCP or UDP.
func FreePorts(n int) ([]int, error) {
	var ports []int
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if free(port) {
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
