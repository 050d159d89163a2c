package jobs

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/internal/pack"
	"aliquot.example/internal/steer"
)

// hclBlocks returns the blocks of HCL of a page that begin with a word.
func hclBlocks(t *testing.T, path, word string) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile("(?s)```hcl\n(.*?)```").FindAllStringSubmatch(read(t, path), -1) {
		if strings.HasPrefix(m[1], word) {
			out = append(out, m[1])
		}
	}
	if len(out) == 0 {
		t.Fatalf("%s has no block %s", path, word)
	}
	return out
}

// pasted is a job with blocks in its group and with a device block.
func pasted(group, device string) string {
	return fmt.Sprintf(`job "pasted" {
  group "server" {
    %s
    task "server" {
      driver = "aliquot"
      config {
        image = "app"
      }
      resources {
        %s
      }
    }
  }
}`, group, device)
}

// What docs/packing.md gives to paste is accepted by a real Nomad, and so is what
// aliquot job inspect prints for each policy.
func TestNomadAcceptsWhatIsPasted(t *testing.T) {
	client := startNomad(t)
	const device = "device \"nvidia/gpu\" {\n count = 4\n %s\n}\n"
	texts := map[string]string{}
	for i, spread := range hclBlocks(t, "../docs/packing.md", "spread") {
		texts[fmt.Sprintf("spread %d of the page", i)] = pasted(spread, fmt.Sprintf(device, ""))
	}
	for i, block := range hclBlocks(t, "../docs/packing.md", "device") {
		texts[fmt.Sprintf("device %d of the page", i)] = pasted("", block)
	}
	class := pack.Start().Classes()[0]
	for _, policy := range pack.Policies() {
		s := pack.Steer(policy, class)
		texts[string(policy)] = pasted(steer.Group(s), fmt.Sprintf(device, steer.Device(s)))
	}
	for name, text := range texts {
		job, err := client.Jobs().ParseHCL(text, true)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, text)
			continue
		}
		answer, _, err := client.Jobs().Validate(job, nil)
		if err != nil || answer.Error != "" || len(answer.ValidationErrors) > 0 || answer.Warnings != "" {
			t.Errorf("%s: %v, %+v\n%s", name, err, answer, text)
		}
	}
	spread := hclBlocks(t, "../docs/packing.md", "spread")[0]
	if want := steer.Group(pack.Steer(pack.BestFit, class)); strings.Join(strings.Fields(spread), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("the page has\n%s\nwhere aliquot job inspect -pack=best-fit prints\n%s", spread, want)
	}
}

// Every job that asks for a GPU takes the policy as a variable.
func TestEveryJobWithGPUsTakesThePolicy(t *testing.T) {
	client := startNomad(t)
	for name, text := range files(t) {
		given := ""
		if strings.Contains(text, "variable \"image\"") {
			given = "image = \"registry.example.com/app\"\n"
		}
		asks := strings.Contains(text, "device.value") || regexp.MustCompile(`(?m)^ *device "`).MatchString(text)
		if !asks {
			continue
		}
		job, err := client.Jobs().ParseHCLOpts(&api.JobsParseRequest{JobHCL: text, Variables: given + "pack = \"spread\"\n", Canonicalize: true})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := job.Meta["aliquot_pack"]; got != "spread" {
			t.Errorf("%s: its meta aliquot_pack is %q with pack = spread", name, got)
		}
	}
}
