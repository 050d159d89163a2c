// Command demo runs all of Aliquot on one machine: Consul, Nomad, the Nomad Autoscaler, Docker, a
// registry, a rack of fake NVIDIA and AMD GPUs, and the gateway, router, autoscaler and two model
// services of jobs/. It replays a burst of requests through them, which scales from zero replicas
// up and back down to zero.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const usage = `Usage: demo [-once] [-trace=FILE] [-length=5m]

  Runs Aliquot on one machine with fake GPUs and replays a burst of requests
  through it. Stays up until Ctrl-C.

Options:

  -once      End after the replay and its checks; the exit status is 1 when one fails.
  -trace     CSV file to replay in place of the generated burst, with the header
             arrival_s,input_tokens,output_tokens; times in seconds.
  -length    How much of the trace is played.
`

func main() {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	once := flags.Bool("once", false, "")
	trace := flags.String("trace", "", "")
	length := flags.Duration("length", 5*time.Minute, "")
	err := flags.Parse(os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "demo: %v, see demo -help\n", err)
		os.Exit(2)
	case flags.NArg() > 0:
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q, see demo -help\n", flags.Arg(0))
		os.Exit(2)
	case *length <= 0:
		fmt.Fprintf(os.Stderr, "demo: -length=%s: want more than 0\n", *length)
		os.Exit(2)
	}
	calls, what, err := workload(*trace, *length)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err = run(ctx, calls, what, *once)
	interrupted := ctx.Err() != nil
	stop()
	// After an interruption the error is no news, and failed checks were already printed.
	if err != nil && !interrupted {
		fmt.Fprintln(os.Stderr, "demo:", err)
	}
	if failed := (checkError{}); err != nil && (!interrupted || errors.As(err, &failed)) {
		os.Exit(1)
	}
}

// workload returns the requests to replay and a description of them.
func workload(trace string, length time.Duration) ([]call, string, error) {
	if trace == "" {
		return assign(burst()), "a generated burst, from zero replicas up and back to zero", nil
	}
	requests, err := readTrace(trace, length)
	return assign(requests), fmt.Sprintf("the first %s of %s", length, trace), err
}

func run(ctx context.Context, calls []call, what string, once bool) (err error) {
	s, err := setUp(ctx)
	if s != nil {
		defer func() {
			if err != nil && ctx.Err() == nil {
				err = fmt.Errorf("%w\nlogs are kept in %s", err, s.KeepLogs())
			}
			err = errors.Join(err, s.Stop())
		}()
	}
	if err != nil {
		return err
	}
	failed := checkError{}
	if err := play(ctx, s, calls, what); once || err != nil && !errors.As(err, &failed) {
		return err
	}
	if failed.error != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\nlogs are kept in %s\n", failed, s.KeepLogs())
	}
	fmt.Printf("\nPage     %s\nGateway  %s\nNomad    %s/ui/jobs\nConsul   %s/ui\n\n", s.page, s.gateway, s.NomadAddress,
		s.ConsulAddress)
	fmt.Printf("  export NOMAD_ADDR=%s CONSUL_HTTP_ADDR=%s\n", s.NomadAddress, s.ConsulAddress)
	fmt.Printf("  %s top\n", s.Program("aliquot"))
	fmt.Printf("  curl %s/v1/completions -H 'Content-Type: application/json' -d "+
		"'{\"model\":\"chat\",\"prompt\":\"hello\",\"max_tokens\":20}'\n\n", s.gateway)
	fmt.Println("The cluster stays up until Ctrl-C.")
	<-ctx.Done()
	fmt.Println()
	if failed.error != nil {
		return failed
	}
	return nil
}
