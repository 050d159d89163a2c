// Command demo starts Consul, Nomad and a rack of fake GPUs of both vendors, runs a
// job whose tasks share one GPU unequally on either vendor's, and shows what landed
// where, read back from inside the containers.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"aliquot/e2e/cluster"
	"aliquot/e2e/rack"
)

// rackName is the NVIDIA rack of the demo: an H100 and a T4. An MI300X is beside it.
const rackName = "h100-t4"

func main() {
	once := flag.Bool("once", false, "end after the checks instead of staying up until Ctrl-C")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q; the only flag is -once\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, *once)
	interrupted := ctx.Err() != nil
	stop()
	switch {
	case interrupted:
		// The one who ended it knows why.
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, once bool) (err error) {
	amd := &cluster.AMD{GPUs: rack.AMDHost(rack.MI300X, 1, "", ""), Release: "26.2"}
	c, err := cluster.Start(ctx, cluster.Options{Rack: rackName, AMD: amd, Progress: os.Stdout})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w\nlogs are kept in %s", err, c.KeepLogs())
		}
		err = errors.Join(err, c.Stop())
	}()
	var rows []row
	for _, gpus := range []string{"h100", "mi300x"} {
		landed, err := slices(ctx, c, gpus)
		if err != nil {
			return err
		}
		rows = append(rows, landed...)
	}
	fmt.Print("\n" + table(rows) + "\n")
	if err := check(rows); err != nil {
		return err
	}
	if once {
		fmt.Println("All checks passed.")
		return nil
	}
	fmt.Printf("Nomad   %s/ui/jobs\nConsul  %s/ui\n\n", c.NomadAddress, c.ConsulAddress)
	fmt.Printf("  export NOMAD_ADDR=%s CONSUL_HTTP_ADDR=%s\n\n", c.NomadAddress, c.ConsulAddress)
	fmt.Println("The cluster stays up until Ctrl-C.")
	<-ctx.Done()
	fmt.Println()
	return nil
}
