// Command sidecar stands in for Envoy, which is not available to tests. It takes Envoy's arguments,
// checks the bootstrap configuration that Nomad wrote, and keeps running.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
}

func run(args []string) error {
	if len(args) < 2 || args[0] != "-c" {
		return fmt.Errorf("arguments are %q, want those of Envoy", args)
	}
	text, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	var bootstrap struct {
		Node struct{ ID string }
	}
	if err := json.Unmarshal(text, &bootstrap); err != nil {
		return err
	}
	if bootstrap.Node.ID == "" {
		return fmt.Errorf("%s names no node", args[1])
	}
	fmt.Println("bootstrap of", bootstrap.Node.ID)
	return nil
}
