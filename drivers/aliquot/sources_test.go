package aliquot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// allocation makes a task and, in its allocation, the links that a task can make.
func allocation(t *testing.T, text string) *drivers.TaskConfig {
	t.Helper()
	_, schema := schemas(t)
	job := newJob(t, schema, text, nil, nil)
	for link, to := range map[string]string{
		"task/local/esc": "/etc", "alloc/esc": "../../../../../../../../etc", "task/local/absolute": job.AllocDir + "/alloc/data",
		"task/local/good": "../../alloc/data", "task/local/logs": "../../alloc/logs",
	} {
		if err := os.Symlink(to, filepath.Join(job.AllocDir, link)); err != nil {
			t.Fatal(err)
		}
	}
	return job
}

// Without volumes { enabled } a job mounts what is in its allocation's directory, by
// whatever links a task made there.
func TestMountsStayInsideTheAllocation(t *testing.T) {
	s := confined(t, func(*limits) {})
	for config, refused := range map[string]bool{
		`"volumes": ["local/esc:/esc"]`:                                            true,
		`"volumes": ["local/esc/ssh:/esc:ro"]`:                                     true,
		`"volumes": ["../alloc/esc:/esc"]`:                                         true,
		`"volumes": ["local/absolute:/esc"]`:                                       true,
		`"mount": [{"type": "bind", "source": "local/esc", "target": "/esc"}]`:     true,
		`"mounts": [{"type": "bind", "source": "../alloc/esc", "target": "/esc"}]`: true,
		`"load": "esc/image.tar"`:                                                  true,
		`"load": "../../../../image.tar"`:                                          true,
		`"volumes": ["local/good:/good"]`:                                          false,
		`"volumes": ["local/missing:/missing"]`:                                    false,
		`"volumes": ["../alloc/data:/data"]`:                                       false,
		`"mount": [{"type": "tmpfs", "target": "/t"}]`:                             false,
		`"load": "image.tar"`:                                                      false,
		`"load": "../../alloc/data/image.tar"`:                                     false,
	} {
		job := allocation(t, `{"image": "x:1", `+config+`}`)
		_, _, err := s.startJob(t, job)
		if refused != (err != nil) || refused && !strings.Contains(err.Error(), "allocation's directory") {
			t.Errorf("%s: %v", config, err)
		}
		open := confined(t, func(l *limits) { l.volumes = true })
		if _, _, err := open.startJob(t, job); err != nil {
			t.Errorf("%s with volumes enabled: %v", config, err)
		}
	}
}

// The allocation's logs are read-only wherever the container has them.
func TestLogsAreReadOnly(t *testing.T) {
	s := confined(t, func(*limits) {})
	for config, want := range map[string][]string{
		`"hostname": "h"`:                                       {"/alloc/logs"},
		`"volumes": ["..:/all"]`:                                {"/alloc/logs", "/all/alloc/logs"},
		`"volumes": ["..:/all:ro"]`:                             {"/alloc/logs"},
		`"volumes": ["../alloc:/mine"]`:                         {"/alloc/logs", "/mine/logs"},
		`"volumes": ["../alloc/logs:/mine:ro"]`:                 {"/alloc/logs"},
		`"volumes": ["../alloc/data:/mine"]`:                    {"/alloc/logs"},
		`"mount": [{"type": "tmpfs", "target": "/alloc/logs"}]`: nil,
	} {
		cfg, _, err := s.startJob(t, allocation(t, `{"image": "x:1", `+config+`}`))
		if err != nil {
			t.Errorf("%s: %v", config, err)
			continue
		}
		var got []string
		for _, m := range cfg.Mounts {
			if m.HostPath == cfg.TaskDir().LogDir && m.Readonly {
				got = append(got, m.TaskPath)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: read-only at %v, want %v", config, got, want)
		}
	}
	for _, config := range []string{`"volumes": ["../alloc/logs:/mine"]`, `"volumes": ["local/logs:/mine"]`, `"mount": [{"type": "bind", "source": "../alloc/logs", "target": "/mine"}]`} {
		if _, _, err := s.startJob(t, allocation(t, `{"image": "x:1", `+config+`}`)); err == nil || !strings.Contains(err.Error(), "logs writable") {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// A job written for MPS mounts the host's shared memory; the driver's mount takes the
// place of it.
func TestOwnMountOfSharedMemoryGivesWay(t *testing.T) {
	s := confined(t, func(l *limits) { l.volumes = true })
	pipe := pipeDir(t, s.runDir)
	for _, config := range []string{`"volumes": ["/dev/shm:/dev/shm"]`, `"mount": [{"type": "bind", "source": "/dev/shm", "target": "/dev/shm/"}]`} {
		_, c, err := s.start(t, `{"image": "x:1", `+config+`}`, nil, reserved(mpsGrant(pipe)))
		if err != nil || len(c.Volumes)+len(c.Mounts) != 0 {
			t.Errorf("%s: %v %v, %v", config, c.Volumes, c.Mounts, err)
		}
	}
}
