package aliquot

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/base"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"aliquot.example/internal/gpu"
	"aliquot.example/internal/variant"
)

func unstarted(t testing.TB) *Driver {
	return New(t.Context(), hclog.NewNullLogger(), MPS{})
}

func schemas(t testing.TB) (config, task *hclspec.Spec) {
	t.Helper()
	d := unstarted(t)
	config, err := d.ConfigSchema()
	if err != nil {
		t.Fatal(err)
	}
	if task, err = d.TaskConfigSchema(); err != nil {
		t.Fatal(err)
	}
	return config, task
}

func decodeConfig(t *testing.T, text string) (DriverConfig, error) {
	t.Helper()
	schema, _ := schemas(t)
	var c DriverConfig
	encoded, err := encode(schema, text)
	if err != nil {
		return c, err
	}
	return c, base.MsgPackDecode(encoded, &c)
}

func TestDanglingContainersAreKeptUnlessAsked(t *testing.T) {
	for text, want := range map[string]bool{
		`{}`:                         false,
		`{"gc": [{"image": false}]}`: false,
		`{"gc": [{"dangling_containers": [{"period": "1m"}]}]}`:  false,
		`{"gc": [{"dangling_containers": [{"enabled": true}]}]}`: true,
	} {
		c, err := decodeConfig(t, text)
		if err != nil || c.GC.DanglingContainers.Enabled != want {
			t.Errorf("%s: enabled = %v, %v", text, c.GC.DanglingContainers.Enabled, err)
		}
	}
}

// The schema of the stock docker driver is shared by the process; changing it in
// place would change that driver too.
func TestDockersOwnSchemaIsUntouched(t *testing.T) {
	schemas(t)
	d := docker.NewDockerDriver(t.Context(), hclog.NewNullLogger())
	config, _ := d.ConfigSchema()
	task, _ := d.TaskConfigSchema()
	if config.GetObject().Attributes["root"] != nil || !task.GetObject().Attributes["image"].GetAttr().Required {
		t.Error("the docker driver's schema was changed")
	}
}

// Every option of the docker driver is in the schemas and reaches it unchanged.
func TestEveryDockerOptionRemains(t *testing.T) {
	config, task := schemas(t)
	d := docker.NewDockerDriver(t.Context(), hclog.NewNullLogger())
	ofConfig, _ := d.ConfigSchema()
	ofTask, _ := d.TaskConfigSchema()
	for _, c := range []struct{ ours, docker *hclspec.Spec }{{config, ofConfig}, {task, ofTask}} {
		for name := range c.docker.GetObject().Attributes {
			if c.ours.GetObject().Attributes[name] == nil {
				t.Errorf("option %s is gone", name)
			}
		}
	}
	text := `{"image": "x:1", "args": ["a"], "auth": [{"username": "u", "server_address": "s"}], "cap_add": ["NET_RAW"], "command": "c",
		"devices": [{"host_path": "/dev/null"}], "entrypoint": ["e"], "extra_hosts": ["a:1.2.3.4"], "labels": [{"l": "1"}],
		"logging": [{"type": "json-file", "config": [{"max-size": "1m"}]}], "mount": [{"type": "tmpfs", "target": "/t", "tmpfs_options": [{"size": 100}]}],
		"ports": ["http"], "shm_size": 1000, "storage_opt": [{"size": "1G"}], "sysctl": [{"a": "b"}], "ulimit": [{"nofile": "1:2"}], "volumes": ["a:b"], "work_dir": "/w"}`
	var theirs docker.TaskConfig
	plain := newJob(t, ofTask, text, nil, nil)
	if err := plain.DecodeDriverConfig(&theirs); err != nil {
		t.Fatal(err)
	}
	set, err := mustSettings(t, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := set.prepare(newJob(t, task, text, nil, nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	var ours docker.TaskConfig
	if err := got.config.DecodeDriverConfig(&ours); err != nil {
		t.Fatal(err)
	}
	if len(theirs.GroupAdd) == 0 && len(ours.GroupAdd) == 0 {
		theirs.GroupAdd, ours.GroupAdd = nil, nil
	}
	if !reflect.DeepEqual(ours, theirs) {
		t.Errorf("the docker driver is handed\n%+v, without this driver it were\n%+v", ours, theirs)
	}
}

func mustSettings(t *testing.T, text string) (settings, error) {
	t.Helper()
	c, err := decodeConfig(t, text)
	if err != nil {
		return settings{}, err
	}
	return c.settings()
}

func TestBadDriverConfigNamesKeyValueAndFix(t *testing.T) {
	for text, want := range map[string]string{
		`{"attach": "magic"}`:                    `attach is "magic": use auto, runtime, cdi, nodes`,
		`{"dangling_containers_check": "maybe"}`: `dangling_containers_check is "maybe": use enforce, warn, off`,
		`{"root": "here"}`:                       `root is "here": want an absolute path`,
		`{"run_dir": ""}`:                        `run_dir is "": want an absolute path`,
		`{"attachment_timeout": "0s"}`:           `attachment_timeout is "0s": want a duration above zero`,
		`{"mps_control": ""}`:                    `mps_control is empty`,
		`{"attatch": "auto"}`:                    `attatch`,
	} {
		if _, err := mustSettings(t, text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// jobFile holds every form of the driver's own task options.
const jobFile = `
job "variants" {
  group "g" {
    task "server" {
      driver = "aliquot"
      config {
        image_tag_by_hardware = false
        require_attachment    = true
        attachment_timeout    = "45s"
        images {
          cuda = "app:cuda"
          rocm = "app:rocm"
        }
        variant "hopper" {
          image      = "app:hopper"
          vendor     = "nvidia"
          args       = ["--port", 8000]
          entrypoint = ["/serve"]
          env {
            MODE  = "fp8"
            LIMIT = 3
          }
          constraint {
            attribute = "compute_capability"
            operator  = ">="
            value     = "9.0"
          }
          constraint {
            attribute = "memory"
            operator  = ">"
            value     = "20 GiB"
          }
        }
        variant "instinct" {
          vendor = "amd"
          env    = { MODE = "bf16" }
          constraint {
            attribute = "target"
            regexp    = "^gfx9"
          }
        }
        variant "rest" {
          command = "slow"
          constraint {
            attribute = "slices"
            value     = 2
          }
          constraint {
            is_set = "driver_version"
          }
        }
      }
    }
  }
}`

// realNomad finds the nomad program, which parses job files in this test as it
// does for users.
func realNomad(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("nomad"); err == nil {
		return path
	}
	cache, _ := os.UserCacheDir()
	found, _ := filepath.Glob(filepath.Join(cache, "aliquot/tools/nomad-*/nomad"))
	if len(found) == 0 {
		t.Skip("no nomad on PATH or from `make tools`")
	}
	return found[len(found)-1]
}

// throughNomad takes a job file the way that a user's takes: Nomad's parser, this
// driver's schema, the wire.
func throughNomad(t *testing.T, file string) (c TaskConfig) {
	t.Helper()
	cmd := exec.Command(realNomad(t), "job", "run", "-output", "-")
	cmd.Stdin = strings.NewReader(file)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v in %s", err, file)
	}
	var parsed struct {
		Job struct {
			TaskGroups []struct {
				Tasks []struct{ Config json.RawMessage }
			}
		}
	}
	if err := json.Unmarshal(out, &parsed); err != nil {
		t.Fatal(err)
	}
	_, schema := schemas(t)
	if err := newJob(t, schema, string(parsed.Job.TaskGroups[0].Tasks[0].Config), nil, nil).DecodeDriverConfig(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestJobFileThroughNomadsParser(t *testing.T) {
	c := throughNomad(t, jobFile)
	got, err := c.spec()
	if err != nil {
		t.Fatal(err)
	}
	want := variant.Spec{
		Images: map[string]string{"cuda": "app:cuda", "rocm": "app:rocm"},
		Variants: []variant.Variant{
			{
				Name: "hopper", Image: "app:hopper", Vendor: gpu.NVIDIA,
				Constraints: []variant.Constraint{{Attribute: "compute_capability", Operator: ">=", Value: "9.0"}, {Attribute: "memory", Operator: ">", Value: "20 GiB"}},
				Override:    variant.Override{Env: map[string]string{"MODE": "fp8", "LIMIT": "3"}, Args: []string{"--port", "8000"}, Entrypoint: []string{"/serve"}},
			},
			{
				Name: "instinct", Vendor: gpu.AMD, Constraints: []variant.Constraint{{Attribute: "target", Operator: "regexp", Value: "^gfx9"}},
				Override: variant.Override{Env: map[string]string{"MODE": "bf16"}},
			},
			{
				Name: "rest", Constraints: []variant.Constraint{{Attribute: "slices", Operator: "=", Value: "2"}, {Attribute: "driver_version", Operator: "is_set"}},
				Override: variant.Override{Command: "slow"},
			},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if !c.RequireAttachment || c.AttachmentTimeout != "45s" || !c.DriverLibraries || c.ImageTagByHardware {
		t.Errorf("got %+v", c)
	}
}

func TestBadVariantsAreNamed(t *testing.T) {
	_, schema := schemas(t)
	for text, want := range map[string]string{
		`{"variant": [{"a": [{"image": "x"}], "b": [{"image": "y"}]}]}`: "variant needs one name and a body",
		`{"variant": "a"}`:                                                           "variant needs one name and a body",
		`{"variant": [{"a": "x"}]}`:                                                  `variant "a": its body is not a block`,
		`{"variant": [{"a": [{"imag": "x"}]}]}`:                                      `variant "a": "imag" is unknown: use image, vendor`,
		`{"variant": [{"a": [{"image": ["x"]}]}]}`:                                   `variant "a": image is a list: want text`,
		`{"variant": [{"a": [{"image": "x", "args": "y"}]}]}`:                        `variant "a": args is not text: want a list of text`,
		`{"variant": [{"a": [{"image": "x", "env": ["y"]}]}]}`:                       `variant "a": env is not text: want a block`,
		`{"variant": [{"a": [{"image": "x", "constraint": [{"attribut": "y"}]}]}]}`:  `constraint has unknown key "attribut"`,
		`{"variant": [{"a": [{"image": "x", "constraint": [{"attribute": "y"}]}]}]}`: `constraint attribute "y" is unknown`,
		`{"variant": [{"a": [{}]}]}`:                                                 `variant "a" has no image`,
		`{"variant": [{"": [{"image": "x"}]}]}`:                                      "has no name",
	} {
		var c TaskConfig
		if err := newJob(t, schema, text, nil, nil).DecodeDriverConfig(&c); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if _, err := c.spec(); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// Every config block of docs/driver.md goes through Nomad's parser, this driver's
// schema and its checks, and it has every attribute.
func TestDocumentedExamples(t *testing.T) {
	page, err := os.ReadFile("../../docs/driver.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for _, code := range strings.Split(string(page), "```hcl\n")[1:] {
		code, _, _ = strings.Cut(code, "```")
		if !strings.HasPrefix(code, "config {") {
			continue
		}
		blocks++
		c := throughNomad(t, "job \"j\" {\n group \"g\" {\n task \"t\" {\n driver = \"aliquot\"\n"+code+"\n}\n}\n}\n")
		if _, err := c.spec(); err != nil {
			t.Errorf("%v in %s", err, code)
		}
	}
	if blocks < 3 {
		t.Errorf("%d config blocks were found", blocks)
	}
	g := mpsGrant("/run/aliquot/x")
	for name := range variant.Attributes(&g) {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("attribute %s is not documented", name)
		}
	}
}
