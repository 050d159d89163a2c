package ports

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// own names the variable that has a process of the test print its ports.
const own = "ALIQUOT_TEST_PRINT_PORTS"

func TestMain(m *testing.M) {
	if os.Getenv(own) == "" {
		os.Exit(m.Run())
	}
	ports, err := Free(blockSize + 1)
	low, _, dynamicErr := Dynamic()
	if err != nil || dynamicErr != nil {
		fmt.Fprintln(os.Stderr, err, dynamicErr)
		os.Exit(1)
	}
	fmt.Println(append(ports, low))
	fmt.Scanln() // keep them until the test closes the input
}

func TestNoPortIsGivenTwice(t *testing.T) {
	seen := map[int]bool{}
	see := func(port int) {
		if seen[port] {
			t.Errorf("port %d was given twice", port)
		}
		seen[port] = true
	}
	for range 4 { // processes that run at the same time
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), own+"=1")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); cmd.Wait() })
		fmt.Fscanf(out, "[")
		for range blockSize + 2 {
			var port int
			if _, err := fmt.Fscan(out, &port); err != nil {
				t.Fatal(err)
			}
			see(port)
		}
	}
	ports, err := Free(2 * blockSize)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range ports {
		see(port)
	}
	var first int
	for i := range dynamicBlocksOfOne {
		low, high, err := Dynamic()
		if err != nil {
			t.Fatal(err)
		}
		if high-low != dynamicBlockSize-1 {
			t.Errorf("a block from %d to %d", low, high)
		}
		if see(low); i == 0 {
			first = low
		}
	}
	if low, _, err := Dynamic(); err != nil || low != first {
		t.Errorf("after %d blocks comes %d, %v; want the first, %d", dynamicBlocksOfOne, low, err, first)
	}
}
