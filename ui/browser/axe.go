package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// axeVersion is the version of axe-core, which checks pages for accessibility.
const axeVersion = "4.10.3"

// Axe returns the source of axe-core, which npm downloads once.
func Axe(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "aliquot", "npm-axe-core-"+axeVersion)
	file := filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	if _, err := os.Stat(file); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
		out, err := exec.CommandContext(ctx, "npm", "install", "--prefix", dir,
			"--no-audit", "--no-fund", "--ignore-scripts", "axe-core@"+axeVersion).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("npm cannot install axe-core: %w: %s", err, out)
		}
	}
	text, err := os.ReadFile(file)
	return string(text), err
}

// Fault is an accessibility rule that a page breaks.
type Fault struct {
	ID     string `json:"id"`
	Impact string `json:"impact"` // minor, moderate, serious or critical
	Help   string `json:"help"`
	Nodes  []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// Faults runs axe-core on the page. axe is its source.
func (b *Browser) Faults(axe string) ([]Fault, error) {
	if err := b.Eval(axe+"; typeof axe", nil); err != nil {
		return nil, err
	}
	var out []Fault
	err := b.Eval(
		`axe.run().then((r) => r.violations.map(({ id, impact, help, nodes }) => ({ id, impact, help, nodes: `+
			`nodes.map(({ html, failureSummary }) => ({ html, failureSummary })) })))`, &out)
	return out, err
}
