// Command fakes builds the rack's fakes into a folder, so that a cluster that
// runs as root compiles nothing.
package main

import (
	"context"
	"fmt"
	"os"

	"aliquot.example/e2e/rack"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: fakes DIR")
		os.Exit(2)
	}
	if err := build(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "fakes:", err)
		os.Exit(1)
	}
}

func build(ctx context.Context, dir string) error {
	if _, err := rack.Build(ctx, dir); err != nil {
		return err
	}
	for _, release := range rack.AMDReleases {
		if _, err := rack.BuildAMD(ctx, dir, release); err != nil {
			return err
		}
	}
	return nil
}
