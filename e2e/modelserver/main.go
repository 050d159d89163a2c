// Command modelserver stands in for a model server in tests and the demo; see README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"aliquot.example/e2e/modelserver/hardware"
)

func main() {
	name := filepath.Base(os.Args[0])
	switch name {
	case asTrue:
		return
	case asSleep:
		stopped := make(chan os.Signal, 1)
		signal.Notify(stopped, syscall.SIGTERM)
		<-stopped
		return
	}
	if err := run(name); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

type options struct {
	listen    string
	model     string
	slots     int
	queue     int
	rate      float64
	prefill   float64
	memory    int
	touch     time.Duration
	coldStart time.Duration
	compile   time.Duration
	drain     time.Duration
	// metrics is a second address for metrics, or "".
	metrics string
	// memoryPart is the fraction of the GPU's whole memory that the model takes; 0 to use memory
	// instead.
	memoryPart float64
	// engine is the hardware class whose batching engine is simulated; "" for slots.
	engine  string
	speedup float64
	// sleeps enables vLLM's sleep mode; wakes is how long waking takes.
	sleeps bool
	wakes  time.Duration
	// saver makes the server behave like SGLang with --enable-memory-saver, including its metrics.
	// backup keeps released weights.
	saver, backup bool
	// budget and longest, in tokens, override the values of the class.
	budget, longest int
}

// engineOfGrant stands for the class of the granted GPU.
const engineOfGrant = "grant"

// usual returns the options that another program's flags do not set.
func usual() options {
	return options{slots: 4, queue: 64, engine: os.Getenv("MODELSERVER_ENGINE"), speedup: 1, rate: 400, prefill: 20000,
		memory: 512, touch: time.Second, wakes: time.Second, drain: 10 * time.Second}
}

func parse(name string, args []string) (options, error) {
	if name == asVLLM || name == asTriton {
		return emulate(name, args, usual())
	}
	var o options
	port := os.Getenv("NOMAD_PORT_http")
	if port == "" {
		port = "8000"
	}
	o = usual()
	flag.StringVar(&o.listen, "listen", ":"+port,
		"address to serve on; the port is that of the Nomad port \"http\" where there is one")
	flag.StringVar(&o.model, "model", "stand-in", "name of the model")
	flag.IntVar(&o.slots, "slots", o.slots, "requests served at a time")
	flag.IntVar(&o.queue, "queue", o.queue, "requests that may wait for a slot")
	flag.Float64Var(&o.rate, "rate", o.rate, "tokens per second of each slot on a whole H100")
	flag.Float64Var(&o.prefill, "prefill", o.prefill, "prompt tokens per second of each slot on a whole H100")
	flag.IntVar(&o.memory, "gpu-memory", o.memory, "MiB of GPU memory that the model takes")
	flag.DurationVar(&o.touch, "gpu-touch", o.touch,
		"time between two calls on the GPU; a longer one notices a lost GPU later")
	flag.DurationVar(&o.coldStart, "cold-start", 0, "time to load the model before it is ready")
	flag.DurationVar(&o.compile, "compile", 0,
		"time to compile before it is ready, where $TRITON_CACHE_DIR has nothing from an earlier start")
	flag.DurationVar(&o.drain, "drain", o.drain, "time that running requests may take once a stop was asked for")
	flag.StringVar(&o.engine, "engine", o.engine, "serve as vLLM does on this class of GPU: "+strings.Join(classNames(),
		", ")+", or "+engineOfGrant+
		" for the class that was granted; empty serves in slots. The default is $MODELSERVER_ENGINE")
	flag.Float64Var(&o.speedup, "speedup", o.speedup, "with -engine, how much faster than that GPU to go")
	flag.BoolVar(&o.sleeps, "enable-sleep-mode", false,
		"answer /sleep, /wake_up and /is_sleeping as vLLM does in its development mode")
	flag.BoolVar(&o.saver, "enable-memory-saver", false,
		"answer /release_memory_occupation and what belongs to it as SGLang does, and name metrics as it does")
	flag.BoolVar(&o.backup, "enable-weights-cpu-backup", false,
		"with -enable-memory-saver, keep the weights that are released")
	flag.DurationVar(&o.wakes, "wake", o.wakes, "time that waking takes")
	_ = flag.CommandLine.Parse(args) // exits the program on an error
	if o.engine != "" {
		o.slots = vllmSeqs
		flag.Visit(func(f *flag.Flag) {
			if f.Name == "slots" {
				o.slots, _ = strconv.Atoi(f.Value.String())
			}
		})
	}
	if flag.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q: all settings are flags, see -help", flag.Arg(0))
	}
	return o, o.check()
}

func (o options) check() error {
	switch {
	case o.slots < 1:
		return fmt.Errorf("-slots=%d: want at least 1", o.slots)
	case o.memory < 0:
		return fmt.Errorf("-gpu-memory=%d: want 0 or more", o.memory)
	case o.touch <= 0:
		return fmt.Errorf("-gpu-touch=%s: want more than 0", o.touch)
	case o.queue < 0:
		return fmt.Errorf("-queue=%d: want 0 or more", o.queue)
	case !(o.rate > 0 && o.prefill > 0):
		return fmt.Errorf("-rate=%g -prefill=%g: want more than 0", o.rate, o.prefill)
	case o.engine != "" && o.engine != engineOfGrant && !slices.Contains(classNames(), o.engine):
		return fmt.Errorf("-engine=%s: want %s, or one of %s", o.engine, engineOfGrant,
			strings.Join(classNames(), ", "))
	case !(o.speedup > 0):
		return fmt.Errorf("-speedup=%g: want more than 0", o.speedup)
	}
	return nil
}

func run(name string) error {
	o, err := parse(name, os.Args[1:])
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	// Listen before loading: a server that loads answers 503 rather than refusing the connection.
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	s := newServer(o)
	web := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }()
	if o.metrics != "" {
		go func() { failed <- http.ListenAndServe(o.metrics, s.metricsOnly()) }()
	}

	hw, err := hardware.Open()
	if err != nil {
		return err
	}
	defer hw.Close()
	if o.memoryPart > 0 {
		if o.memory, err = partOf(hw.Grant, o.memoryPart); err != nil {
			return err
		}
	}
	if err := hw.Hold(hardware.Use{MiB: o.memory, Busy: s.busy, Every: o.touch}); err != nil {
		return err
	}
	if err := wait(ctx, o.coldStart); err != nil {
		return nil
	}
	compiled, err := compile(ctx, o.compile)
	if err != nil {
		return err
	}
	hw.Compiled = compiled
	// The engine goes on after a stop was asked for, until its last answers are complete.
	engine, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	s.load(engine, hw)
	slog.Info("ready", "variant", hw.Variant, "class", hw.Grant.Class, "slices", hw.Grant.Slices, "speed", hw.Speed(),
		"problem", hw.Problem())

	select {
	case err := <-failed:
		return err
	case err := <-hw.Lost():
		return fmt.Errorf("the GPU is lost: %w", err)
	case <-ctx.Done():
	}
	return s.shutdown(web)
}

// shutdown lets requests in progress end, for as long as options.drain allows.
func (s *server) shutdown(web *http.Server) error {
	s.drain()
	grace, cancel := context.WithTimeout(context.Background(), s.options.drain)
	defer cancel()
	if err := web.Shutdown(grace); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// wait waits for d. It returns an error if ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
