package amd

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"aliquot.example/internal/share"
)

// partitionRetry is the pause between two attempts to repartition one card.
const partitionRetry = 10 * time.Second

// partitioner sets compute partitions through sysfs, where modes are words. The library's numbers of
// modes changed between releases.
type partitioner struct {
	machine
	logged *journal
	wake   func()

	mu    sync.Mutex
	tried map[string]attempt
}

type attempt struct {
	at   time.Time
	mode string
	// outcome is the problem after the attempt, or "".
	outcome string
}

// wanted returns the configured compute mode, or "" if there is none.
func wanted(rules []share.Rule, found share.Found) string {
	rule, ok := share.Pick(rules, found.GPU)
	if !ok || rule.Mode == share.Off {
		return ""
	}
	return strings.ToLower(strings.TrimSpace(rule.Options["partition"]))
}

// refusal returns why a card can never have a mode, or "" if it can.
func refusal(c card, mode string) string {
	switch {
	case len(c.Available) == 0:
		return fmt.Sprintf("partition = %q: the GPU has no compute partitions; remove partition from its gpu block",
			mode)
	case !slices.Contains(c.Available, mode):
		return fmt.Sprintf("partition = %q: the GPU stays in %s, because it offers only %s; set one of them", mode,
			c.Compute, strings.Join(c.Available, ", "))
	}
	return ""
}

// converge sets a card's mode when no process uses the card. It returns why the card cannot take tasks
// until then, and whether that lasts only for a moment. A card that cannot have the mode stays in
// service as it is.
func (p *partitioner) converge(c card, mode string) (problem string, starting bool) {
	subject := "partition " + string(c.ID)
	if mode == "" || mode == c.Compute {
		p.logged.logChange(0, subject, "", "")
		return "", false
	}
	if why := refusal(c, mode); why != "" {
		p.logged.warn(subject, "a GPU is not repartitioned", fmt.Sprintf("GPU %s: %s", c.ID, why))
		return "", false
	}
	if users := p.users(c); len(users) > 0 {
		problem = fmt.Sprintf("it becomes %s when it is idle; in use by process %s", mode, pids(users))
		p.logged.info(subject, "a GPU waits to be repartitioned", fmt.Sprintf("GPU %s: %s", c.ID, problem))
		return problem, false
	}
	problem = p.set(c, mode)
	if problem == "" {
		return fmt.Sprintf("it is being partitioned as %s", mode), true
	}
	p.logged.warn(subject, "a GPU is not repartitioned", fmt.Sprintf("GPU %s: %s", c.ID, problem))
	return problem, false
}

// set writes the mode, at most once in partitionRetry.
func (p *partitioner) set(c card, mode string) (problem string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last, ok := p.tried[string(c.ID)]
	if ok && last.mode == mode && time.Since(last.at) < partitionRetry {
		return last.outcome
	}
	path := p.Path(pciDir, c.PCI.String(), "current_compute_partition")
	err := os.WriteFile(path, []byte(strings.ToUpper(mode)), 0)
	switch {
	case err == nil:
		p.logged.log.Info("repartitioned a GPU", "gpu", c.ID, "from", c.Compute, "to", mode)
		p.wake()
	case errors.Is(err, syscall.EBUSY):
		problem = fmt.Sprintf("it becomes %s when no process uses any AMD GPU of the host; "+
			"the driver reports busy", mode)
	case errors.Is(err, os.ErrPermission):
		problem = fmt.Sprintf("it cannot become %s: no permission to write %s; run the Nomad agent as root",
			mode, path)
	case errors.Is(err, syscall.EINVAL):
		problem = fmt.Sprintf("it cannot become %s: the driver refuses this mode in memory mode %s", mode, c.Memory)
	default:
		problem = fmt.Sprintf("it cannot become %s: %v", mode, err)
	}
	if p.tried == nil {
		p.tried = map[string]attempt{}
	}
	p.tried[string(c.ID)] = attempt{time.Now(), mode, problem}
	return problem
}

// pids renders at most three process IDs.
func pids(list []int) string {
	text := strings.Trim(fmt.Sprint(list[:min(3, len(list))]), "[]")
	if len(list) > 3 {
		text += fmt.Sprintf(" and %d more", len(list)-3)
	}
	return text
}
