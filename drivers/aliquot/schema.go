package aliquot

import (
	"strings"

	//lint:ignore SA1019 hclspec.Spec is generated for this package
	"github.com/golang/protobuf/proto"
	"github.com/hashicorp/nomad/drivers/docker"
	"github.com/hashicorp/nomad/plugins/shared/hclspec"

	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/variant"
)

// Name is the driver's name in job files and in the agent's plugin block.
const Name = "aliquot"

// DriverConfig is the content of plugin "aliquot-driver" { config { ... } }: the docker driver's
// keys and those of this driver.
type DriverConfig struct {
	docker.DriverConfig
	// Root is the directory that contains the machine's /dev, /proc/driver/nvidia, /sys, /etc and
	// libraries: "/", except in tests and driver containers.
	Root string `codec:"root"`
	// RunDir is the run directory of the device plugin, which contains the MPS pipes.
	RunDir string `codec:"run_dir"`
	// MPSControl is the control program of MPS daemons.
	MPSControl string `codec:"mps_control"`
	// Attach is how NVIDIA GPUs are attached to containers, one of the Attach constants.
	Attach string `codec:"attach"`
	// CDIDirs are searched for CDI specifications, below Root.
	CDIDirs []string `codec:"cdi_spec_dirs"`
	// AttachmentTimeout is the default time that a task may take to open its GPU.
	AttachmentTimeout string `codec:"attachment_timeout"`
	// DanglingCheck is what to do if the agent's own docker driver would remove this driver's
	// containers: "enforce", "warn" or "off".
	DanglingCheck string `codec:"dangling_containers_check"`
	// AllowUngrantedGPUs allows jobs to use GPUs without a grant, with options of the docker
	// driver.
	AllowUngrantedGPUs bool `codec:"allow_ungranted_gpus"`
	// AllowedDevices are device nodes that jobs may use although nodes of their kind are refused.
	AllowedDevices []string `codec:"allowed_devices"`
	// JoinNetworks leaves the creation of allocations' networks to the docker driver.
	JoinNetworks bool `codec:"join_networks"`
	// AllowedModes are the namespaces that jobs may share.
	AllowedModes AllowedModes `codec:"allowed_modes"`
	// CacheSocket is where the node's cache listens.
	CacheSocket string `codec:"cache_socket"`
	// Packing publishes the attributes by which packing policies rank nodes.
	Packing PackingConfig `codec:"packing"`
}

// The ways to attach an NVIDIA GPU.
const (
	AttachAuto    = "auto"    // the first of the others that the host supports
	AttachRuntime = "runtime" // NVIDIA's container runtime adds everything
	AttachCDI     = "cdi"     // nodes and files that the host's CDI specification lists
	AttachNodes   = "nodes"   // device nodes and driver libraries found on the host
)

// Outcomes of DriverConfig.DanglingCheck.
const (
	DanglingEnforce = "enforce"
	DanglingWarn    = "warn"
	DanglingOff     = "off"
)

func withDefault(name, kind, literal string) *hclspec.Spec {
	return hclspec.NewDefault(hclspec.NewAttr(name, kind, false), hclspec.NewLiteral(literal))
}

// configSpec returns the docker driver's schema with the additions of DriverConfig. The removal of
// unknown containers is off by default.
func configSpec(ofDocker *hclspec.Spec) *hclspec.Spec {
	spec := proto.Clone(ofDocker).(*hclspec.Spec)
	attrs := spec.GetObject().Attributes
	keepDangling(attrs["gc"])
	attrs["root"] = withDefault("root", "string", `"/"`)
	attrs["run_dir"] = withDefault("run_dir", "string", `"/run/aliquot"`)
	attrs["mps_control"] = withDefault("mps_control", "string", `"nvidia-cuda-mps-control"`)
	attrs["attach"] = withDefault("attach", "string", `"auto"`)
	attrs["cdi_spec_dirs"] = withDefault("cdi_spec_dirs", "list(string)", `["/etc/cdi", "/var/run/cdi"]`)
	attrs["attachment_timeout"] = withDefault("attachment_timeout", "string", `"30s"`)
	attrs["dangling_containers_check"] = withDefault("dangling_containers_check", "string", `"enforce"`)
	attrs["allow_ungranted_gpus"] = withDefault("allow_ungranted_gpus", "bool", "false")
	attrs["allowed_devices"] = withDefault("allowed_devices", "list(string)", "[]")
	attrs["cache_socket"] = withDefault("cache_socket", "string", `"`+cacheapi.Socket+`"`)
	attrs["join_networks"] = withDefault("join_networks", "bool", "false")
	modes := map[string]*hclspec.Spec{}
	for _, name := range []string{"pid", "ipc", "userns", "uts"} {
		modes[name] = hclspec.NewAttr(name, "list(string)", false)
	}
	attrs["allowed_modes"] = hclspec.NewBlock("allowed_modes", false, hclspec.NewObject(modes))
	attrs["packing"] = packingSpec()
	return spec
}

// keepDangling changes the default of gc { dangling_containers { enabled } } to false in all three
// places: the attribute, the block and gc.
func keepDangling(gc *hclspec.Spec) {
	off := func(d *hclspec.Default) {
		literal := d.Default.GetLiteral()
		literal.Value = strings.ReplaceAll(literal.Value, "enabled = true", "enabled = false")
	}
	outer := gc.GetDefault()
	off(outer)
	dangling := outer.Primary.GetBlockValue().Nested.GetObject().Attributes["dangling_containers"].GetDefault()
	off(dangling)
	enabled := dangling.Primary.GetBlockValue().Nested.GetObject().Attributes["enabled"].GetDefault()
	enabled.Default.GetLiteral().Value = "false"
}

// TaskConfig is the content of a task's config block: the docker driver's keys and those of this driver.
type TaskConfig struct {
	docker.TaskConfig
	// Images has the images block by variant.ImageKeys; nil if there is none.
	Images             map[string]string `codec:"images"`
	Variant            any               `codec:"variant"`
	ImageTagByHardware bool              `codec:"image_tag_by_hardware"`
	RequireAttachment  bool              `codec:"require_attachment"`
	AttachmentTimeout  string            `codec:"attachment_timeout"`
	DriverLibraries    bool              `codec:"driver_libraries"`
	// Models are names such as hf://Qwen/Qwen3-4B@main; ModelsInclude and ModelsExclude are
	// patterns of their files.
	Models        []string `codec:"models"`
	ModelsInclude []string `codec:"models_include"`
	ModelsExclude []string `codec:"models_exclude"`
	ModelsWait    string   `codec:"models_wait"`
	ModelsTimeout string   `codec:"models_timeout"`
	// CompileCache keeps what the task compiles for its job's next start. ReadyCheck and
	// CompileCacheSettle determine when the cache is published.
	CompileCache       bool   `codec:"compile_cache"`
	ReadyCheck         string `codec:"ready_check"`
	CompileCacheSettle string `codec:"compile_cache_settle"`
}

// taskSpec returns the docker driver's schema with the additions of TaskConfig, and with image optional.
// Variants are ordered and labelled, which hclspec cannot express, so the schema accepts anything and
// readVariants checks it.
func taskSpec(ofDocker *hclspec.Spec) *hclspec.Spec {
	spec := proto.Clone(ofDocker).(*hclspec.Spec)
	attrs := spec.GetObject().Attributes
	attrs["image"].GetAttr().Required = false
	images := map[string]*hclspec.Spec{}
	for _, key := range variant.ImageKeys() {
		images[key] = hclspec.NewAttr(key, "string", false)
	}
	attrs["images"] = hclspec.NewBlock("images", false, hclspec.NewObject(images))
	attrs["variant"] = hclspec.NewAttr("variant", "any", false)
	attrs["image_tag_by_hardware"] = withDefault("image_tag_by_hardware", "bool", "false")
	attrs["require_attachment"] = withDefault("require_attachment", "bool", "false")
	attrs["attachment_timeout"] = hclspec.NewAttr("attachment_timeout", "string", false)
	attrs["driver_libraries"] = withDefault("driver_libraries", "bool", "true")
	for _, name := range []string{"models", "models_include", "models_exclude"} {
		attrs[name] = withDefault(name, "list(string)", "[]")
	}
	attrs["models_wait"] = withDefault("models_wait", "string", `"10s"`)
	attrs["models_timeout"] = withDefault("models_timeout", "string", `"60m"`)
	attrs["compile_cache"] = withDefault("compile_cache", "bool", "false")
	attrs["ready_check"] = hclspec.NewAttr("ready_check", "string", false)
	attrs["compile_cache_settle"] = withDefault("compile_cache_settle", "string", `"30s"`)
	return spec
}
