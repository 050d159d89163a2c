package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"aliquot.example/e2e/rack/wire"
)

// controlError is an error with the words of the real program, including the capital letter.
type controlError string

func (s controlError) Error() string { return string(s) }

func controlErrorf(format string, args ...any) error {
	return controlError(fmt.Sprintf(format, args...))
}

// command executes one command line of the control program.
func (d *daemon) command(line string, peer *syscall.Ucred) wire.Reply {
	word := strings.Fields(line)
	name, args := word[0], word[1:]
	handler, ok := commands[name]
	if !ok {
		return wire.Reply{Error: 1, Message: "Unknown command: " + line}
	}
	text, err := handler(d, args, peer)
	if err != nil {
		return wire.Reply{Error: 1, Message: err.Error()}
	}
	return wire.Reply{Text: text}
}

var commands = map[string]func(d *daemon, args []string, peer *syscall.Ucred) (string, error){
	"start_server":                         (*daemon).startServer,
	"get_server_list":                      (*daemon).serverList,
	"get_server_status":                    (*daemon).serverStatus,
	"get_client_list":                      (*daemon).clientList,
	"get_device_client_list":               (*daemon).deviceClientList,
	"ps":                                   (*daemon).ps,
	"get_default_active_thread_percentage": (*daemon).getDefaultPercentage,
	"set_default_active_thread_percentage": (*daemon).setDefaultPercentage,
	"get_active_thread_percentage":         (*daemon).getPercentage,
	"set_active_thread_percentage":         (*daemon).setPercentage,
	"get_default_device_pinned_mem_limit":  (*daemon).getDefaultLimit,
	"set_default_device_pinned_mem_limit":  (*daemon).setDefaultLimit,
	"get_device_pinned_mem_limit":          (*daemon).getLimit,
	"set_device_pinned_mem_limit":          (*daemon).setLimit,
	"set_default_client_priority":          (*daemon).setPriority,
	"get_default_client_priority":          (*daemon).getPriority,
	"terminate_client":                     (*daemon).terminate,
	"shutdown_server":                      (*daemon).shutdownServer,
	"quit":                                 (*daemon).quitCommand,
}

func (d *daemon) startServer(args []string, peer *syscall.Ucred) (string, error) {
	uid := int(peer.Uid)
	if i := slices.Index(args, "-uid"); i >= 0 && i+1 < len(args) {
		n, err := strconv.Atoi(args[i+1])
		if err != nil {
			return "", controlErrorf("Invalid user ID %s", args[i+1])
		}
		uid = n
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server != nil {
		return "", nil
	}
	_, err := d.start(uint32(uid))
	return "", err
}

// running returns the server with that PID, or any server if pid is "".
func (d *daemon) running(pid string) (*server, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.server == nil || (pid != "" && strconv.Itoa(d.server.pid) != pid) {
		return nil, controlErrorf("Server %s not found", pid)
	}
	return d.server, nil
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (d *daemon) serverList([]string, *syscall.Ucred) (string, error) {
	if s, err := d.running(""); err == nil {
		return fmt.Sprintln(s.pid), nil
	}
	return "", nil
}

func (d *daemon) serverStatus(args []string, _ *syscall.Ucred) (string, error) {
	s, err := d.running(first(args))
	if err != nil {
		return "", err
	}
	a, err := s.order(order{Op: "status"}, nil)
	return a.State + "\n", err
}

func (d *daemon) clientList(args []string, _ *syscall.Ucred) (string, error) {
	s, err := d.running(first(args))
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, c := range s.list() {
		fmt.Fprintln(&b, c.PID)
	}
	return b.String(), nil
}

func (d *daemon) deviceClientList(args []string, _ *syscall.Ucred) (string, error) {
	s, err := d.running(first(args))
	if err != nil {
		return "", err
	}
	clients := s.list()
	var b strings.Builder
	for i, device := range d.devices {
		fmt.Fprintf(&b, "Device %d (%s):\n", i, device.UUID)
		for _, c := range clients {
			if slices.Contains(c.Devices, device.UUID) {
				fmt.Fprintln(&b, c.PID)
			}
		}
	}
	return b.String(), nil
}

func (d *daemon) ps(args []string, _ *syscall.Ucred) (string, error) {
	pid := ""
	if len(args) == 2 && args[0] == "-p" {
		pid = args[1]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s %-7s %-8s %-22s %-14s %s\n", "PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND")
	s, err := d.running(pid)
	if err != nil {
		return b.String(), nil
	}
	for _, c := range s.list() {
		fmt.Fprintf(&b, "%-9d %-7d %-8d %-22s %-14d %s\n", c.PID, c.ID, s.pid, c.short(), c.Namespace, c.Command)
	}
	return b.String(), nil
}

func percentage(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || f <= 0 || f > 100 {
		return 0, controlErrorf("Invalid active thread percentage %q", s)
	}
	return f, nil
}

func (d *daemon) getDefaultPercentage([]string, *syscall.Ucred) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Sprintf("%.1f\n", d.percentage), nil
}

func (d *daemon) setDefaultPercentage(args []string, _ *syscall.Ucred) (string, error) {
	f, err := percentage(first(args))
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.percentage = f
	return fmt.Sprintf("%.1f\n", f), nil
}

func (d *daemon) getPercentage(args []string, _ *syscall.Ucred) (string, error) {
	s, err := d.running(first(args))
	if err != nil {
		return "", err
	}
	a, err := s.order(order{Op: "status"}, nil)
	return fmt.Sprintf("%.1f\n", a.Percentage), err
}

func (d *daemon) setPercentage(args []string, _ *syscall.Ucred) (string, error) {
	if len(args) != 2 {
		return "", controlErrorf("Usage: set_active_thread_percentage PID PERCENTAGE")
	}
	f, err := percentage(args[1])
	if err != nil {
		return "", err
	}
	s, err := d.running(args[0])
	if err != nil {
		return "", err
	}
	_, err = s.order(order{Op: "percentage", Percentage: f}, nil)
	return fmt.Sprintf("%.1f\n", f), err
}

func (d *daemon) getDefaultLimit(args []string, _ *syscall.Ucred) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.limits[first(args)] + "\n", nil
}

func (d *daemon) setDefaultLimit(args []string, _ *syscall.Ucred) (string, error) {
	if len(args) != 2 {
		return "", controlErrorf("Usage: set_default_device_pinned_mem_limit DEVICE LIMIT")
	}
	if _, err := mebibytes(args[1]); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.limits[args[0]] = args[1]
	return "", nil
}

func (d *daemon) getLimit(args []string, _ *syscall.Ucred) (string, error) {
	s, err := d.running(first(args))
	if err != nil || len(args) != 2 {
		return "", err
	}
	a, err := s.order(order{Op: "status"}, nil)
	return a.Limits[args[1]] + "\n", err
}

func (d *daemon) setLimit(args []string, _ *syscall.Ucred) (string, error) {
	if len(args) != 3 {
		return "", controlErrorf("Usage: set_device_pinned_mem_limit PID DEVICE LIMIT")
	}
	if _, err := mebibytes(args[2]); err != nil {
		return "", err
	}
	s, err := d.running(args[0])
	if err != nil {
		return "", err
	}
	_, err = s.order(order{Op: "limit", Device: args[1], Limit: args[2]}, nil)
	return "", err
}

// Priorities have no effect that this stand-in shows.
func (d *daemon) setPriority([]string, *syscall.Ucred) (string, error) { return "", nil }
func (d *daemon) getPriority([]string, *syscall.Ucred) (string, error) { return "0\n", nil }

func (d *daemon) terminate(args []string, _ *syscall.Ucred) (string, error) {
	if len(args) != 2 {
		return "", controlErrorf("Usage: terminate_client SERVER_PID CLIENT_PID")
	}
	s, err := d.running(args[0])
	if err != nil {
		return "", err
	}
	pid, err := strconv.Atoi(args[1])
	if err != nil {
		return "", controlErrorf("Invalid client PID %s", args[1])
	}
	a, err := s.order(order{Op: "terminate", PID: pid}, nil)
	if err == nil && !a.OK {
		err = controlErrorf("Client %d not found", pid)
	}
	return "0\n", err
}

func (d *daemon) shutdownServer(args []string, _ *syscall.Ucred) (string, error) {
	s, err := d.running(first(args))
	if err != nil {
		return "", err
	}
	if slices.Contains(args, "-f") {
		return "", syscall.Kill(s.pid, syscall.SIGKILL)
	}
	s.leaveWhenIdle()
	return "", nil
}

func (d *daemon) quitCommand(args []string, _ *syscall.Ucred) (string, error) {
	var timeout time.Duration
	if len(args) == 2 && args[0] == "-t" {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 0 {
			return "", controlErrorf("Invalid timeout %s", args[1])
		}
		timeout = max(time.Duration(n)*time.Second, time.Millisecond)
	}
	d.quit(timeout)
	return "", nil
}
