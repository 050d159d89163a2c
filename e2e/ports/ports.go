// Package ports chooses the ports of servers that tests start.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// Ports of servers are below the kernel's ephemeral range, so that no outgoing connection takes a port
// before its server listens, or while it restarts.
const (
	first     = 10_000
	blocks    = 200
	blockSize = 50
)

// Nomad's dynamic ports come from blocks above those.
const (
	firstDynamic     = first + blocks*blockSize
	dynamicBlocks    = 24
	dynamicBlockSize = 500
	// dynamicBlocksOfOne is the number of blocks that one process uses by turns.
	dynamicBlocksOfOne = 4
)

// reserved are the ports of this process.
var reserved struct {
	sync.Mutex
	left    []int // that Free has not returned yet
	dynamic []int // the first ports of blocks, that of the next Dynamic first
	held    []net.Listener
}

// Free returns n ports on which nothing listens, over TCP or UDP. It never returns a port twice, in
// this process or in another that runs at the same time: a server may not listen yet, or be about to
// start again.
func Free(n int) ([]int, error) {
	reserved.Lock()
	defer reserved.Unlock()
	var out []int
	for len(out) < n {
		if len(reserved.left) == 0 {
			start, err := reserve(first, blocks, blockSize)
			if err != nil {
				return nil, err
			}
			for i := range blockSize {
				reserved.left = append(reserved.left, start+i)
			}
		}
		port := reserved.left[0]
		if reserved.left = reserved.left[1:]; free(port) {
			out = append(out, port)
		}
	}
	return out, nil
}

// reserve reserves one of several blocks of ports until this process ends, by an abstract socket, and
// returns its first port.
func reserve(first, blocks, size int) (int, error) {
	var err error
	for _, block := range rand.Perm(blocks) {
		start := first + block*size
		var held net.Listener
		if held, err = net.Listen("unix", fmt.Sprintf("@aliquot-test-ports-%d", start)); err == nil {
			reserved.held = append(reserved.held, held)
			return start, nil
		}
	}
	return 0, fmt.Errorf("no block of ports from %d to %d can be reserved: %w", first, first+blocks*size-1, err)
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

// Dynamic returns the bounds of a block of ports for the dynamic ports of a Nomad client. No other
// process uses the block at the same time, and the next call returns another one.
func Dynamic() (low, high int, err error) {
	reserved.Lock()
	defer reserved.Unlock()
	if len(reserved.dynamic) < dynamicBlocksOfOne {
		low, err = reserve(firstDynamic, dynamicBlocks, dynamicBlockSize)
		if err != nil && len(reserved.dynamic) < 2 {
			return 0, 0, err
		}
		if err == nil {
			reserved.dynamic = append([]int{low}, reserved.dynamic...)
		}
	}
	low = reserved.dynamic[0]
	reserved.dynamic = append(reserved.dynamic[1:], low)
	return low, low + dynamicBlockSize - 1, nil
}
