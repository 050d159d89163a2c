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

// What the docker driver binds by itself is of the allocation, whatever an earlier run
// of a task has put in the place of a directory.
func TestDirectoriesOfTheAllocationAreReal(t *testing.T) {
	s := confined(t, func(l *limits) { l.volumes, l.privileged, l.ungranted = true, true, true })
	for _, dir := range []string{"alloc", "alloc/logs", "task", "task/local", "task/secrets"} {
		for name, put := range map[string]func(path string) error{
			"a link":        func(path string) error { return os.Symlink("/", path) },
			"a link within": func(path string) error { return os.Symlink(filepath.Base(path)+".old", path) },
			"a file":        func(path string) error { return os.WriteFile(path, nil, 0o600) },
			"nothing":       func(string) error { return nil },
		} {
			job := allocation(t, `{"image": "x:1"}`)
			path := filepath.Join(job.AllocDir, dir)
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			if _, _, err := s.startJob(t, job); err == nil || !strings.Contains(err.Error(), "the allocation's directory") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s in place of %s: %v", name, dir, err)
			}
		}
	}
}

// No task can rename the directories that Nomad and the docker driver use by name, nor
// one above them.
func TestDirectoriesOfTheAllocationStay(t *testing.T) {
	for config, refused := range map[string]bool{
		`"volumes": ["..:/all"]`:                                                        true,
		`"volumes": ["..:/all:z"]`:                                                      true,
		`"volumes": [".:/mine"]`:                                                        true,
		`"volumes": ["../other:/other"]`:                                                true,
		`"volumes": ["local/..:/mine"]`:                                                 true,
		`"volumes": ["local/up:/mine"]`:                                                 true,
		`"volumes": ["local/over/missing:/mine"]`:                                       true,
		`"mount": [{"type": "bind", "source": "..", "target": "/all"}]`:                 true,
		`"mounts": [{"type": "bind", "source": "local/up", "target": "/all"}]`:          true,
		`"volumes": ["..:/all:ro"]`:                                                     false,
		`"volumes": [".:/mine:ro,z"]`:                                                   false,
		`"mount": [{"type": "bind", "source": "..", "target": "/a", "readonly": true}]`: false,
		`"volumes": ["local:/a", "secrets:/b", "../alloc:/c", "../alloc/data:/d"]`:      false,
		`"volumes": ["local/..data:/a", "local/file:/b", "secrets/key:/c"]`:             false,
		`"volumes": ["../other/local/x:/a"]`:                                            false,
	} {
		for _, volumes := range []bool{false, true} {
			s := confined(t, func(l *limits) { l.volumes, l.ungranted = volumes, volumes })
			job := allocation(t, `{"image": "x:1", `+config+`}`)
			for link, to := range map[string]string{"up": "..", "over": "../.."} {
				if err := os.Symlink(to, filepath.Join(job.AllocDir, "task/local", link)); err != nil {
					t.Fatal(err)
				}
			}
			_, _, err := s.startJob(t, job)
			if refused != (err != nil) || refused && !strings.Contains(err.Error(), "replace the directories") {
				t.Errorf("%s with volumes %v: %v", config, volumes, err)
			}
		}
	}
}

// The docker driver binds to the places that the environment names, with what follows
// a colon there.
func TestPlacesOfDirectoriesAreNomads(t *testing.T) {
	s := confined(t, func(*limits) {})
	env := map[string]string{"NOMAD_ALLOC_DIR": "/alloc:rw", "NOMAD_TASK_DIR": "/run/nvidia-container-devices/all", "NOMAD_SECRETS_DIR": "/dev/dri"}
	variant := `{"variant": [{"v": [{"image": "x:1", "env": [{"NOMAD_ALLOC_DIR": "/elsewhere"}]}]}]}`
	cfg, _, err := s.start(t, variant, env, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"NOMAD_ALLOC_DIR": "/alloc", "NOMAD_TASK_DIR": "/local", "NOMAD_SECRETS_DIR": "/secrets"} {
		if cfg.Env[name] != want {
			t.Errorf("%s = %q, want %q", name, cfg.Env[name], want)
		}
	}
	if len(cfg.Mounts) != 1 || cfg.Mounts[0].TaskPath != "/alloc/logs" || !cfg.Mounts[0].Readonly {
		t.Errorf("mounts %+v", cfg.Mounts)
	}
}

// A volume made of a folder is a way to it like a mount.
func TestVolumesMadeOfFoldersAreMounts(t *testing.T) {
	s := confined(t, func(l *limits) { l.volumes = true })
	for config, refused := range map[string]bool{
		local("none", "ALLOC/alloc/logs", "bind"):         true,
		local("none", "ALLOC/alloc/logs", "bind,ro"):      true,
		local("none", "ALLOC/task", "bind"):               true,
		local("tmpfs", "ALLOC", "bind"):                   true,
		`"volume_driver": "any", "volumes": ["ALLOC:/x"]`: true,
		local("none", "ALLOC/alloc", "bind"):              false,
		local("none", "ALLOC/alloc/data", "bind"):         false,
		local("tmpfs", "tmpfs", "size=1m"):                false,
		local("nfs", ":/export", "addr=192.0.2.1"):        false,
		local("cifs", "//192.0.2.1/share", "guest"):       false,
		`"volume_driver": "any", "volumes": ["name:/x"]`:  false,
		`"mount": [{"type": "volume", "target": "/x", "source": "v", "volume_options": [{"driver_config": [{"name": "rclone", "options": [{"type": "s3"}]}]}]}]`: false,
	} {
		_, schema := schemas(t)
		dir := t.TempDir()
		job := newJob(t, schema, `{"image": "x:1", `+strings.ReplaceAll(config, "ALLOC", dir)+`}`, nil, nil)
		if err := os.CopyFS(dir, os.DirFS(job.AllocDir)); err != nil {
			t.Fatal(err)
		}
		job.AllocDir = dir
		cfg, _, err := s.startJob(t, job)
		if refused != (err != nil) {
			t.Errorf("%s: %v", config, err)
		}
		if !strings.Contains(config, `ALLOC/alloc"`) {
			continue
		}
		if len(cfg.Mounts) != 2 || cfg.Mounts[1].TaskPath != "/x/logs" || !cfg.Mounts[1].Readonly {
			t.Errorf("%s: mounts %+v", config, cfg.Mounts)
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
