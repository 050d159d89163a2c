package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"aliquot.example/e2e/rack"
	"aliquot.example/e2e/rack/wire"
)

// readyMark tells the child process of -d that it is the daemon and should report on descriptor 3
// when it is ready.
const readyMark = "MPS_CONTROL_CHILD"

// background starts the daemon in its own session and returns when it serves or has failed.
func background(multiuser bool) int {
	if os.Getenv(readyMark) != "" {
		return child(multiuser)
	}
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	exe, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := &exec.Cmd{Path: exe, Args: os.Args, Env: append(os.Environ(), readyMark+"=1"), ExtraFiles: []*os.File{w},
		Dir: "/", SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	w.Close()
	answer, _ := io.ReadAll(r)
	if string(answer) == "ready" {
		return 0
	}
	fmt.Println(string(answer))
	return 1
}

func child(multiuser bool) int {
	ready := os.NewFile(3, "ready")
	os.Unsetenv(readyMark)
	syscall.CloseOnExec(3)
	err := run(multiuser, func() {
		fmt.Fprint(ready, "ready")
		ready.Close()
	})
	if err != nil {
		fmt.Fprint(ready, err)
		return 1
	}
	return 0
}

func foreground(multiuser bool) int {
	if err := run(multiuser, func() {}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

var errRunning = controlErrorf("An instance of this daemon is already running")

// run serves until quit or a terminating signal.
func run(multiuser bool, ready func()) error {
	pipe, logs := pipeDirectory(), logDirectory()
	for _, dir := range []string{pipe, logs} {
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return controlErrorf("Failed to open directory %s", dir)
		}
	}
	lock, err := locked(filepath.Join(pipe, "control_lock"))
	if err != nil {
		return errRunning
	}
	defer lock.Close()
	file, err := openLog(filepath.Join(logs, "control.log"))
	if err != nil {
		return err
	}
	defer file.Close()
	d := &daemon{pipe: pipe, logs: logs, rack: os.Getenv("ALIQUOT_RACK"), log: logger(file, "Control"), percentage: 100,
		limits: limits(os.Getenv("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")), multiuser: multiuser}
	if own, err := percentage(os.Getenv("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")); err == nil {
		d.percentage = own
	}
	d.changed.L = &d.mu
	release, err := d.claim()
	if err != nil {
		d.log.Print(err)
		return err
	}
	defer release()
	listener, err := d.listen()
	if err != nil {
		d.log.Print(err)
		return err
	}
	defer listener.Close()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		d.quit(time.Millisecond)
		listener.Close()
	}()
	d.stop = func() { listener.Close() }
	ready()
	d.accept(listener)
	os.Remove(filepath.Join(pipe, "nvidia-cuda-mps-control.pid"))
	return nil
}

func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
}

// logger writes lines in the format of the real logs: "[2026-02-06 09:34:17.770 Control   261]
// text".
func logger(w io.Writer, who string) *log.Logger {
	return log.New(stamped{w, who}, "", 0)
}

type stamped struct {
	w   io.Writer
	who string
}

func (s stamped) Write(p []byte) (int, error) {
	_, err := fmt.Fprintf(s.w, "[%s %s %5d] %s", time.Now().Format("2006-01-02 15:04:05.000"), s.who, os.Getpid(), p)
	return len(p), err
}

func locked(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// claim claims the GPUs that the daemon may use. Like the real program, it silently shares a GPU
// with another daemon, but records that in <rack>.d/mps.log.
func (d *daemon) claim() (release func(), err error) {
	if d.rack == "" {
		return nil, errors.New("ALIQUOT_RACK names no rack file")
	}
	file, err := rack.Load(d.rack)
	if err != nil {
		return nil, err
	}
	var locks []*os.File
	release = func() {
		for _, l := range locks {
			l.Close()
		}
		d.record("stopped")
	}
	d.devices = file.Select(file.Devices(nil), visible())
	for _, device := range d.devices {
		gpu := device.UUID
		if device.Parent != "" {
			gpu = device.Parent + "." + strconv.Itoa(device.GI) + "." + strconv.Itoa(device.CI)
		}
		l, err := locked(filepath.Join(d.rack+".d", "mps-"+gpu+".lock"))
		if err != nil {
			d.record(rack.SecondDaemon, gpu)
			continue
		}
		locks = append(locks, l)
	}
	d.record("started", uuids(d.devices)...)
	return release, nil
}

func visible() *string {
	if v, ok := os.LookupEnv("CUDA_VISIBLE_DEVICES"); ok {
		return &v
	}
	return nil
}

func uuids(devices []wire.Device) (out []string) {
	for _, d := range devices {
		out = append(out, d.UUID)
	}
	return out
}

// record adds a line to the log that rack.Daemons reads.
func (d *daemon) record(what string, gpus ...string) {
	f, err := openLog(filepath.Join(d.rack+".d", "mps.log"))
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %s pid=%d pipe=%s %s\n", time.Now().Format(time.RFC3339Nano), what, os.Getpid(), d.pipe,
		strings.Join(gpus, " "))
}

func (d *daemon) listen() (*net.UnixListener, error) {
	path := filepath.Join(d.pipe, "control")
	_ = os.Remove(path) // a killed daemon leaves its socket
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, controlErrorf("Failed to bind %s: %v", path, err)
	}
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, err
	}
	d.log.Printf("Starting control daemon using socket %s", path)
	d.log.Printf("To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY=%s", d.pipe)
	return l, os.WriteFile(filepath.Join(d.pipe, "nvidia-cuda-mps-control.pid"),
		[]byte(strconv.Itoa(os.Getpid())), 0o644)
}
