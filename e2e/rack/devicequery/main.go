// Program devicequery is a CUDA program without CUDA. It prints what it sees as one line of JSON
// and, with -hold, keeps its memory and load until it is terminated. Images for tests are FROM
// scratch and contain this program.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"aliquot.example/e2e/rack/cuda"
)

func main() {
	alloc := flag.Int("alloc", 0, "MiB of the first device to take")
	load := flag.Int("load", 0, "percent of the first device's SMs to keep busy")
	fault := flag.Bool("fault", false, "cause a fatal GPU exception")
	hold := flag.Bool("hold", false, "stay until SIGTERM or SIGINT")
	root := flag.String("root", "/", "root directory of the machine")
	flag.Parse()
	if err := run(*root, *alloc, *load, *fault, *hold); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(root string, alloc, load int, fault, hold bool) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	c, err := cuda.Open(cuda.Options{Root: root})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := json.NewEncoder(os.Stdout).Encode(c); err != nil {
		return err
	}
	if alloc > 0 {
		if err := c.Alloc(0, alloc); err != nil {
			return err
		}
	}
	if err := c.Load(0, load, load/2); err != nil {
		return err
	}
	if fault {
		return c.Fault()
	}
	if hold {
		<-stop
	}
	return nil
}
