package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/blob"
	"aliquot.example/internal/gpu"
)

// ofJob lists the items that the tasks of a registered job need on nodes with GPUs of a vendor.
func ofJob(id, vendor string) ([]string, error) {
	client, err := nomad.NewClient(nomad.DefaultConfig())
	if err != nil {
		return nil, err
	}
	job, _, err := client.Jobs().Info(id, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot read job %q at %s: %w", id, client.Address(), err)
	}
	return itemsOf(job, vendor)
}

// errVendor is the error for a task whose image depends on the vendor, without -vendor.
var errVendor = errors.New("its image differs by hardware: give the GPU vendor of the list's nodes with -vendor")

// itemsOf lists the models, images and compile caches of the tasks of a job.
func itemsOf(job *nomad.Job, vendor string) (items []string, err error) {
	add := func(text string) {
		item, failed := blob.ParseItem(text)
		if failed != nil {
			err = cmp.Or(err, failed)
		} else if name := item.String(); !slices.Contains(items, name) {
			items = append(items, name)
		}
	}
	for _, g := range job.TaskGroups {
		for _, t := range g.Tasks {
			if t.Driver != "aliquot" {
				continue
			}
			for _, name := range texts(t.Config["models"]) {
				add(name)
			}
			images, failed := imagesOf(t.Config, vendor)
			if failed != nil {
				return nil, fmt.Errorf("task %q of job %q: %w", t.Name, *job.ID, failed)
			}
			for _, name := range images {
				add("image://" + name)
			}
			if on, _ := t.Config["compile_cache"].(bool); on {
				add("compiled://" + cmp.Or(deref(job.Namespace), "default") + "/" + *job.ID)
			}
		}
	}
	if err == nil && len(items) == 0 {
		err = fmt.Errorf("job %q has no task of driver aliquot with models, an image with a tag or compile_cache",
			*job.ID)
	}
	return items, err
}

// imagesOf lists the images that a task's config can use on a vendor's GPUs. The granted hardware
// selects among variants, so the list has all that match the vendor.
func imagesOf(config map[string]any, vendor string) (images []string, err error) {
	base := text(config["image"])
	if tagged, _ := config["image_tag_by_hardware"].(bool); tagged && base != "" {
		if vendor == "" {
			return nil, errVendor
		}
		base += ":" + vendor
	}
	if list := blocks(config["images"]); len(list) > 0 {
		if vendor == "" {
			return nil, errVendor
		}
		key := vendor // "cpu" is its own
		if maker, ok := gpu.MakerOf(gpu.Vendor(vendor)); ok {
			key = maker.Image
		}
		base = text(list[0][key])
	}
	names, err := variantsOf(config, vendor, base)
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = append(names, base)
	}
	// Leave out names that Nomad interpolates on the node, and images without a tag, which docker
	// pulls at each start.
	return slices.DeleteFunc(names, func(n string) bool {
		return n == "" || strings.Contains(n, "${") || !pinned(n)
	}), nil
}

// variantsOf lists the images of a config's variants for a vendor's GPUs. base replaces the image
// of a variant that names none.
func variantsOf(config map[string]any, vendor, base string) (names []string, err error) {
	for _, labelled := range blocks(config["variant"]) {
		for _, inner := range labelled {
			for _, v := range blocks(inner) {
				of := text(v["vendor"])
				if of != "" && vendor == "" {
					return nil, errVendor
				}
				if of == "" || of == vendor {
					names = append(names, cmp.Or(text(v["image"]), base))
				}
			}
		}
	}
	return names, nil
}

// pinned reports whether an image has a tag or digest.
func pinned(image string) bool {
	return strings.ContainsAny(image[strings.LastIndexByte(image, '/')+1:], ":@")
}

func text(value any) string { s, _ := value.(string); return s }

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// texts returns the strings of a list.
func texts(value any) (all []string) {
	list, _ := value.([]any)
	for _, v := range list {
		if s, ok := v.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// blocks returns the blocks of a key. Nomad's API has them as a map or a list of maps.
func blocks(value any) (all []map[string]any) {
	switch v := value.(type) {
	case map[string]any:
		return []map[string]any{v}
	case []map[string]any:
		return v
	case []any:
		for _, one := range v {
			if m, ok := one.(map[string]any); ok {
				all = append(all, m)
			}
		}
	}
	return all
}
