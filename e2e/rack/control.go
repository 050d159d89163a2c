package rack

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// Fault causes a fatal GPU exception on a running fake MPS server, as if one of its clients had
// caused it. All its clients lose their contexts, and it accepts no new client until they have
// exited. A server without clients is not affected.
func Fault(serverPID int) error { return syscall.Kill(serverPID, syscall.SIGUSR1) }

// SecondDaemon is the event of a daemon that starts on a GPU that already has a daemon.
const SecondDaemon = "second"

// DaemonEvent is one line of the rack's log of MPS control daemons.
type DaemonEvent struct {
	Time time.Time
	PID  int
	Pipe string
	What string   // started, Second or stopped; a killed daemon logs nothing
	GPUs []string // that it serves, or the one that another daemon already serves
}

// Daemons returns the log of all MPS control daemons that were started on the rack, oldest first.
// If it has no Second, no GPU ever had two daemons.
func (r *Rack) Daemons() ([]DaemonEvent, error) {
	text, err := os.ReadFile(r.Path + ".d/mps.log")
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []DaemonEvent
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			return nil, fmt.Errorf("record of daemons: line %q", line)
		}
		e := DaemonEvent{What: fields[1], GPUs: fields[4:], Pipe: strings.TrimPrefix(fields[3], "pipe=")}
		if e.Time, err = time.Parse(time.RFC3339Nano, fields[0]); err != nil {
			return nil, err
		}
		if _, err := fmt.Sscanf(fields[2], "pid=%d", &e.PID); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}
