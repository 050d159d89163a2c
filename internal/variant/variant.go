// Package variant chooses the container image of a task by the hardware that the task was granted.
// It only decides: it reads no file, clock or environment.
package variant

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"aliquot.example/internal/gpu"
)

// CPU is the vendor of a task without a GPU.
const CPU gpu.Vendor = "cpu"

// Spec is a job's configuration of the images of one task. Exactly one of Image and Images is the
// base image, which variants may replace.
type Spec struct {
	// Image is one image for all hardware or, with TagByHardware, a name to which the vendor of the
	// granted hardware is added as a tag: "nvidia", "amd", "intel" or "cpu".
	Image         string
	TagByHardware bool
	// Images holds one image for each kind of hardware, by ImageKeys; nil if the job has none.
	Images map[string]string
	// Variants are tried in order. If there are any, one of them must match.
	Variants []Variant
}

// Variant is one alternative way to run a task.
type Variant struct {
	Name string
	// Image replaces the base image; "" keeps it.
	Image string
	// Vendor is the vendor for which the variant is: CPU for tasks without a GPU, "" for any.
	Vendor      gpu.Vendor
	Constraints []Constraint
	Override
}

// Override is what a variant changes besides the image. nil and "" change nothing.
type Override struct {
	Env        map[string]string
	Args       []string
	Command    string
	Entrypoint []string
}

// Choice is the result for one task.
type Choice struct {
	Image string
	// Variant is the name of the matching variant, or "" if the job has none.
	Variant string
	Override
}

// Validate returns an error for the first thing in the spec that cannot work on any hardware.
func (s Spec) Validate() error {
	if err := s.validateBase(); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, v := range s.Variants {
		switch {
		case v.Name == "":
			return errors.New(`a variant block has no name: write variant "name" { ... }`)
		case seen[v.Name]:
			return fmt.Errorf("variant %q is defined twice: give each variant a name of its own", v.Name)
		case v.Vendor != "" && !slices.Contains(Vendors(), string(v.Vendor)):
			return fmt.Errorf("variant %q: vendor is %q: use %s", v.Name, v.Vendor, list(Vendors(), "or"))
		case v.Image == "" && !s.hasBase():
			return fmt.Errorf("variant %q has no image and the task has no image or images to fall back on", v.Name)
		}
		seen[v.Name] = true
		for _, c := range v.Constraints {
			if err := c.Validate(); err != nil {
				return fmt.Errorf("variant %q: %w", v.Name, err)
			}
		}
	}
	return nil
}

func (s Spec) hasBase() bool { return s.Image != "" || s.Images != nil }

func (s Spec) validateBase() error {
	switch {
	case s.Image != "" && s.Images != nil:
		return errors.New("image and images are both set: keep image for all hardware, or images { " +
			strings.Join(ImageKeys(), ", ") + " }")
	case s.Images != nil && len(s.named()) == 0:
		return errors.New("images is empty: name at least one of " + list(ImageKeys(), "and"))
	case s.TagByHardware && s.Image == "":
		return errors.New("image_tag_by_hardware needs image, a name without a tag")
	case s.TagByHardware && tagged(s.Image):
		return fmt.Errorf("image_tag_by_hardware adds the tag, but image %q already has a tag or digest: "+
			"remove the tag or image_tag_by_hardware", s.Image)
	case !s.hasBase() && len(s.Variants) == 0:
		return errors.New("no image: set image, images { " + strings.Join(ImageKeys(), ", ") + " } or variant blocks")
	}
	return nil
}

// tagged reports whether an image reference ends in a tag or digest. The colon of a registry's port
// does not count.
func tagged(image string) bool {
	name := image[strings.LastIndex(image, "/")+1:]
	return strings.ContainsAny(name, ":@")
}

// Choose returns how to run the task on its grant, which is nil for a task without a GPU. The spec
// must be valid. If the task fits nothing, the error is one line that names the hardware and why
// each variant does not fit.
func Choose(s Spec, grant *gpu.Grant) (Choice, error) {
	if len(s.Variants) == 0 {
		image, err := s.base(grant)
		return Choice{Image: image}, err
	}
	attrs := Attributes(grant)
	var tried []string
	for _, v := range s.Variants {
		why := v.mismatch(grant, attrs)
		if why != "" {
			tried = append(tried, fmt.Sprintf("%q %s", v.Name, why))
			continue
		}
		choice := Choice{Image: v.Image, Variant: v.Name, Override: v.Override}
		if choice.Image == "" {
			image, err := s.base(grant)
			if err != nil {
				return Choice{}, fmt.Errorf("variant %q keeps the base image: %w", v.Name, err)
			}
			choice.Image = image
		}
		return choice, nil
	}
	return Choice{}, fmt.Errorf("no variant fits %s: %s", Describe(grant), strings.Join(tried, "; "))
}

// mismatch returns why the variant does not fit, or "" if it does.
func (v Variant) mismatch(grant *gpu.Grant, attrs map[string]Value) string {
	if granted := vendorOf(grant); v.Vendor != "" && v.Vendor != granted {
		return "is for vendor " + string(v.Vendor)
	}
	for _, c := range v.Constraints {
		if why := c.mismatch(attrs); why != "" {
			return why
		}
	}
	return ""
}

func (s Spec) base(grant *gpu.Grant) (string, error) {
	vendor := vendorOf(grant)
	if s.TagByHardware {
		return s.Image + ":" + string(vendor), nil
	}
	if s.Images == nil {
		return s.Image, nil
	}
	i := slices.Index(Vendors(), string(vendor))
	if i < 0 {
		return "", fmt.Errorf("images has no image for vendor %s for %s: it names %s", vendor, Describe(grant),
			strings.Join(s.named(), ", "))
	}
	key := ImageKeys()[i]
	if image := s.Images[key]; image != "" {
		return image, nil
	}
	return "", fmt.Errorf("images has no %s for %s: it names %s", key, Describe(grant), strings.Join(s.named(), ", "))
}

// named lists the keys of the images in the job.
func (s Spec) named() []string {
	return slices.DeleteFunc(ImageKeys(), func(key string) bool { return s.Images[key] == "" })
}

// Vendors lists the valid values of a variant's vendor: the makers, then CPU.
func Vendors() []string {
	var out []string
	for _, m := range gpu.Makers() {
		out = append(out, string(m.Vendor))
	}
	return append(out, string(CPU))
}

// ImageKeys lists the keys of the images block, in the order of Vendors.
func ImageKeys() []string {
	var out []string
	for _, m := range gpu.Makers() {
		out = append(out, m.Image)
	}
	return append(out, string(CPU))
}

// list formats names as part of a sentence: "a, b or c".
func list(names []string, last string) string {
	end := len(names) - 1
	return strings.Join(names[:end], ", ") + " " + last + " " + names[end]
}

func vendorOf(grant *gpu.Grant) gpu.Vendor {
	if grant == nil {
		return CPU
	}
	return grant.Vendor
}

// Describe describes the granted hardware in a few words.
func Describe(grant *gpu.Grant) string {
	if grant == nil {
		return "a task without a GPU"
	}
	return fmt.Sprintf("%s %s (%s; %s; %s; target %s; driver %s; sharing %s)",
		grant.Vendor, grant.Group, grant.Model, Part(*grant), grant.Memory, grant.Target, grant.Driver, grant.Sharing)
}

// Part describes the granted part: "6 of 20 slices", "2 whole GPUs", "1 MIG device".
func Part(g gpu.Grant) string {
	n := len(g.GPUs)
	plural := map[bool]string{true: "s"}[n != 1]
	switch {
	case g.Total > 1:
		return fmt.Sprintf("%d of %d slices", g.Slices, g.Total)
	case g.Sharing == gpu.SharingMIG:
		return fmt.Sprintf("%d MIG device%s", n, plural)
	case g.Sharing == gpu.SharingPartition:
		return fmt.Sprintf("%d partition%s", n, plural)
	case g.Sharing == gpu.SharingFunction:
		return fmt.Sprintf("%d virtual function%s", n, plural)
	default:
		return fmt.Sprintf("%d whole GPU%s", n, plural)
	}
}
