package hardware

import (
	"fmt"
	"time"

	"aliquot.example/e2e/rack/cuda"
	"aliquot.example/internal/gpu"
)

// device is a CUDA context that stays open as long as the process runs.
type device struct {
	*cuda.Context
	lost chan error
	done chan struct{}
	full int // MiB that it took on each GPU
	held int // MiB of these that it holds now
}

// openCUDA opens every visible GPU, as a CUDA program does when it starts.
func openCUDA() (*device, error) {
	context, err := cuda.Open(cuda.Options{})
	if err != nil {
		return nil, err
	}
	d := &device{Context: context, lost: make(chan error, 1), done: make(chan struct{})}
	return d, nil
}

// hold takes memory on every GPU and keeps reporting to the driver how busy the process is, until
// Close or until the GPU is lost.
func (d *device) hold(use Use) error {
	if err := d.resize(use.MiB); err != nil {
		return err
	}
	d.full = use.MiB
	go d.touch(use)
	return nil
}

func (d *device) touch(use Use) {
	ticker := time.NewTicker(use.Every)
	defer ticker.Stop()
	for {
		for i, seen := range d.Devices {
			percent := use.Busy() * seen.SMs / max(1, seen.Total)
			if err := d.Load(i, percent, percent/2); err != nil {
				d.lost <- err
				return
			}
		}
		select {
		case <-ticker.C:
		case <-d.done:
			return
		}
	}
}

// resize allocates or frees memory until the process holds mib MiB on every GPU.
func (d *device) resize(mib int) error {
	for i := range d.Devices {
		more := mib - d.held
		var err error
		if more > 0 {
			err = d.Alloc(i, more)
		} else if more < 0 {
			err = d.Free(i, -more)
		}
		if err != nil {
			return fmt.Errorf("holding %d MiB of GPU memory instead of %d: %w", mib, d.held, err)
		}
	}
	d.held = mib
	return nil
}

// Close releases the GPU.
func (d *device) Close() error {
	close(d.done)
	return d.Context.Close()
}

// units returns the number of SMs that the process may use, over all GPUs.
func (d *device) units() int {
	n := 0
	for _, seen := range d.Devices {
		n += seen.SMs
	}
	return n
}

// differs returns how the GPUs differ from the grant, or "".
func (d *device) differs(g gpu.Grant) string {
	if d.MPS != (g.Sharing == gpu.SharingMPS) {
		return fmt.Sprintf("the grant is shared by %s and the process runs over MPS: %v", g.Sharing, d.MPS)
	}
	if len(d.Devices) != len(g.GPUs) {
		return fmt.Sprintf("granted %d GPUs (%v) and sees %d", len(g.GPUs), g.GPUs, len(d.Devices))
	}
	limit := 0
	for i, seen := range d.Devices {
		if gpu.ID(seen.UUID) != g.GPUs[i] {
			return fmt.Sprintf("granted GPU %s and sees %s", g.GPUs[i], seen.UUID)
		}
		limit += seen.Limit
	}
	if units := d.units(); units > g.Units {
		return fmt.Sprintf("granted %d SMs and sees %d", g.Units, units)
	}
	if d.MPS && gpu.MiB(limit) != g.Memory {
		return fmt.Sprintf("granted %v and is limited to %v (0 is no limit)", g.Memory, gpu.MiB(limit))
	}
	return ""
}
