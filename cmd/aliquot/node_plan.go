package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/cli"

	"aliquot.example/internal/driver"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/host"
	"aliquot.example/internal/host/inventory"
)

type nodePlanCommand struct{ ui cli.Ui }

func (nodePlanCommand) Synopsis() string { return "Plan the GPU driver of this host" }

func (nodePlanCommand) Help() string {
	return `Usage: aliquot node plan [-json] [-version=<version>] [-vendor=<vendor>] [-modules=open|closed]

  Prints the GPUs of this host, the drivers that they need and that are installed, and
  the plan for the wanted version: packages, and a reload or a reboot. Without a version
  a working driver stays; otherwise the plan installs the newest version in the host's
  package sources. The command changes nothing.

  Exits with 0 if nothing would change, with 1 if something would change, and with 255
  if the plan is refused or the host cannot be read.

Options:

  -json      Print facts, requirements and plan as JSON. Default false.
  -version   The wanted version in full, such as 580.126.09.
  -vendor    Vendor of the driver, on a host with GPUs of several vendors.
  -modules   Kind of kernel modules, if the driver has two: open or closed. Default:
             the installed kind, otherwise the one that supports the GPUs.
  -root      Root of the host. Default /.

Example:

  aliquot node plan -version=580.126.09
`
}

// plannedNode is the output of the command.
type plannedNode struct {
	Facts   driver.Facts    `json:"facts"`
	Needs   []driver.Need   `json:"needs"`
	Plan    *driver.Plan    `json:"plan,omitempty"`
	Refused *driver.Refusal `json:"refused,omitempty"`
}

func (c nodePlanCommand) Run(args []string) int {
	const refused = 255
	flags := newFlags("node plan", c.ui)
	asJSON := flags.Bool("json", false, "")
	var want driver.Want
	flags.StringVar(&want.Version, "version", "", "")
	flags.StringVar((*string)(&want.Vendor), "vendor", "", "")
	flags.StringVar((*string)(&want.Modules), "modules", "", "")
	root := flags.String("root", "/", "")
	if !flags.parse(args) {
		return refused
	}
	if wrong := wrongWant(want); wrong != "" {
		c.ui.Error("aliquot node plan: " + wrong + "; see aliquot node plan -help")
		return refused
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	facts, err := inventory.Read(ctx, host.Root(*root), true)
	if err != nil {
		c.ui.Error("aliquot node plan: " + flat(err))
		return refused
	}
	p := plannedNode{Facts: facts}
	for _, m := range driver.Makers() {
		p.Needs = append(p.Needs, driver.Needs(facts, m.Vendor)...)
	}
	status := 0
	plan, why := driver.Make(facts, want)
	switch {
	case len(facts.GPUs) == 0:
	case why != nil:
		p.Refused, status = why, refused
	default:
		p.Plan = &plan
		if !plan.Done() {
			status = 1
		}
	}
	if *asJSON {
		text, _ := json.MarshalIndent(p, "", "  ")
		c.ui.Output(string(text))
		return status
	}
	c.ui.Output(p.text())
	if p.Refused != nil {
		c.ui.Error("aliquot node plan: refused: " + flat(p.Refused))
	}
	return status
}

func wrongWant(w driver.Want) string {
	if w.Version != "" && !driver.ValidVersion(w.Version) {
		return fmt.Sprintf("-version=%s: want a full version, such as 580.126.09", w.Version)
	}
	if _, ok := driver.MakerOf(w.Vendor); w.Vendor != "" && !ok {
		return fmt.Sprintf("-vendor=%s: want one of %s", w.Vendor, vendorList())
	}
	if w.Modules != "" && w.Modules != driver.Open && w.Modules != driver.Closed {
		return fmt.Sprintf("-modules=%s: want open or closed", w.Modules)
	}
	return ""
}

func vendorList() string {
	var names []string
	for _, m := range driver.Makers() {
		names = append(names, string(m.Vendor))
	}
	return strings.Join(names, ", ")
}

// text formats the plan for a terminal.
func (p plannedNode) text() string {
	var b strings.Builder
	f := p.Facts
	fmt.Fprintf(&b, "Host      %s, kernel %s, Secure Boot %s\n", f.Distribution, f.Kernel,
		map[bool]string{true: "on", false: "off"}[f.SecureBoot])
	if len(f.GPUs) == 0 {
		b.WriteString("GPUs      none on the PCI bus: nothing to do")
		return b.String()
	}
	for _, n := range p.Needs {
		fmt.Fprintf(&b, "GPU       %s  needs %s\n", n.Device, n.Requirement)
	}
	for _, v := range slices.Sorted(maps.Keys(f.Drivers)) {
		fmt.Fprintf(&b, "Driver    %s\n", driverLine(v, f.Drivers[v], f.DriverPackages(v)))
	}
	for _, h := range f.Holders {
		fmt.Fprintf(&b, "In use    by %s\n", h)
	}
	if p.Plan == nil {
		return strings.TrimSuffix(b.String(), "\n")
	}
	if p.Plan.Done() {
		fmt.Fprintf(&b, "Plan      nothing to do: version %s is installed", p.Plan.Version)
	} else {
		fmt.Fprintf(&b, "Plan      version %s", p.Plan.Version)
		if p.Plan.Modules != "" {
			fmt.Fprintf(&b, " with the %s kernel modules", p.Plan.Modules)
		}
		fmt.Fprintf(&b, ", packages from %s", p.Plan.Source)
	}
	for _, pin := range p.Plan.Install {
		fmt.Fprintf(&b, "\n  install %s", pin)
	}
	for _, name := range p.Plan.Remove {
		fmt.Fprintf(&b, "\n  remove  %s", name)
	}
	if len(p.Plan.Hold) > 0 {
		fmt.Fprintf(&b, "\n  hold    %s", strings.Join(p.Plan.Hold, " "))
	}
	if p.Plan.Apply != driver.Nothing {
		fmt.Fprintf(&b, "\n  then    %s",
			map[driver.Apply]string{
				driver.Reload: "reload the modules when no task runs; reboot if they are in use",
				driver.Reboot: "reboot when no task runs"}[p.Plan.Apply])
	}
	for _, note := range p.Plan.Notes {
		fmt.Fprintf(&b, "\n  note    %s", note)
	}
	return b.String()
}

func driverLine(v gpu.Vendor, d driver.Installed, packages []driver.Package) string {
	or := func(s string) string {
		if s == "" {
			return "none"
		}
		return s
	}
	held := 0
	for _, p := range packages {
		if p.Held {
			held++
		}
	}
	line := fmt.Sprintf("%s: loaded %s", v, or(d.Loaded))
	if d.Modules != "" {
		line += " (" + string(d.Modules) + ")"
	}
	line += ", on disk " + or(d.OnDisk)
	if m, ok := driver.MakerOf(v); ok && m.Library != "" {
		line += ", library " + or(d.Library)
	}
	line += fmt.Sprintf(", %d packages, %d of them held", len(packages), held)
	if d.Foreign != "" {
		line += ", installed by " + d.Foreign
	}
	return line
}
