package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"aliquot.example/internal/gpu"
)

// Under these names the program accepts the arguments of another program, so that a job file for
// that program runs unchanged.
const (
	asVLLM   = "vllm"
	asTriton = "tritonserver"
	asTrue   = "true"  // a program that exits at once
	asSleep  = "sleep" // waits until it is stopped, for jobs that only pull an image
)

// emulate parses the arguments of the program that it stands in for. It accepts only the flags that
// jobs/ uses, so that a job file cannot drift from what is known to be right.
func emulate(name string, args []string, o options) (options, error) {
	switch name {
	case asVLLM:
		return vllm(args, o)
	case asTriton:
		return triton(args, o)
	}
	return o, fmt.Errorf("unknown name %q", name)
}

// vllm parses "vllm serve <model> --flag value…".
func vllm(args []string, o options) (options, error) {
	if len(args) < 2 || args[0] != "serve" || strings.HasPrefix(args[1], "-") {
		return o, errors.New("want: vllm serve <model> [flags]")
	}
	flags := flag.NewFlagSet(asVLLM, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	host := flags.String("host", "", "")
	port := flags.Int("port", 8000, "")
	flags.StringVar(&o.model, "served-model-name", args[1], "")
	flags.IntVar(&o.slots, "max-num-seqs", vllmSeqs, "")
	flags.IntVar(&o.budget, "max-num-batched-tokens", 0, "")
	flags.IntVar(&o.longest, "max-model-len", 0, "")
	sleeps := flags.Bool("enable-sleep-mode", false, "")
	flags.Bool("enable-prompt-tokens-details", false, "") // usage always contains them
	flags.Float64Var(&o.memoryPart, "gpu-memory-utilization", 0.9, "")
	if err := parseAll(flags, args[2:]); err != nil {
		return o, err
	}
	if !(o.memoryPart > 0 && o.memoryPart <= 1) {
		return o, fmt.Errorf("--gpu-memory-utilization=%g: want more than 0, at most 1", o.memoryPart)
	}
	o.sleeps = *sleeps && os.Getenv("VLLM_SERVER_DEV_MODE") == "1"
	o.listen = fmt.Sprintf("%s:%d", *host, *port)
	return o, o.check()
}

// triton parses Triton's flags. The model repository must exist. The server speaks KServe's
// protocol and has metrics on a separate port. There is no gRPC.
func triton(args []string, o options) (options, error) {
	flags := flag.NewFlagSet(asTriton, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	repository := flags.String("model-repository", "", "")
	ports := map[string]*int{}
	for name, usual := range map[string]int{"http-port": 8000, "grpc-port": 8001, "metrics-port": 8002} {
		ports[name] = flags.Int(name, usual, "")
	}
	if err := parseAll(flags, args); err != nil {
		return o, err
	}
	models, err := os.ReadDir(*repository)
	if err != nil {
		return o, fmt.Errorf("--model-repository: %w", err)
	}
	if len(models) == 0 {
		return o, fmt.Errorf("--model-repository=%s holds no model", *repository)
	}
	for name, port := range ports {
		if *port < 1 || *port > 65535 {
			return o, fmt.Errorf("--%s=%d: want 1 to 65535", name, *port)
		}
	}
	o.model = models[0].Name()
	o.listen = ":" + strconv.Itoa(*ports["http-port"])
	o.metrics = ":" + strconv.Itoa(*ports["metrics-port"])
	return o, o.check()
}

func parseAll(flags *flag.FlagSet, args []string) error {
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return err
}

// partOf returns a fraction of the whole GPU's memory in MiB. It fails if the grant has less.
func partOf(g gpu.Grant, part float64) (mib int, err error) {
	if g.Total == 0 {
		return 0, errors.New("there is no grant of slices to take a part of")
	}
	if part > float64(g.Slices)/float64(g.Total) {
		return 0, fmt.Errorf("%.3f of the GPU's memory is more than what was granted, %d of %d slices", part,
			g.Slices, g.Total)
	}
	return int(part * float64(g.Memory) * float64(g.Total) / float64(g.Slices)), nil
}
