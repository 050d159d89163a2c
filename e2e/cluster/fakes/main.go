// Command fakes builds the rack's fakes into a folder, so that a cluster that
// runs as root compiles nothing.
package main

import (
	"context"
	"fmt"
	"os"

	"aliquot/e2e/rack"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: fakes DIR")
		os.Exit(2)
	}
	if _, err := rack.Build(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "fakes:", err)
		os.Exit(1)
	}
}
