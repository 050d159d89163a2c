package version

import (
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
)

func TestTheLine(t *testing.T) {
	for _, c := range []struct {
		info Info
		want string
	}{
		{Info{"1.2.3", "abc", "2026-11-29T01:02:03+01:00", "go1.26.8", "linux/arm64"}, "1.2.3 (commit abc of 2026-11-29T00:02:03Z, go1.26.8, linux/arm64)"},
		{Info{"1.2.3", "", "", "go1.26.8", "linux/amd64"}, "1.2.3 (commit unknown, go1.26.8, linux/amd64)"},
		{Info{"1.2.3", "abc", "yesterday", "go1.26.8", "linux/amd64"}, "1.2.3 (commit abc, go1.26.8, linux/amd64)"},
	} {
		if got := c.info.String(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestWhatTheGoCommandRecorded(t *testing.T) {
	got := recorded(Info{Version: "1.2.3"}, &debug.BuildInfo{Main: debug.Module{Version: "v0.0.0-2026+dirty"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.time", Value: "2026-11-29T00:02:03Z"}, {Key: "vcs.modified", Value: "true"},
	}})
	fetched := recorded(Info{Version: "1.2.3"}, &debug.BuildInfo{Main: debug.Module{Version: "v1.3.0", Sum: "h1:x"}})
	if fetched.Version != "1.3.0" || fetched.Commit != "" {
		t.Errorf("%+v", fetched)
	}
	if got.Commit != "abc-modified" || got.Date != "2026-11-29T00:02:03Z" || got.Version != "1.2.3" {
		t.Errorf("%+v", got)
	}
}

// TestedWith is what the tests run: the pins of tools/.
func TestTestedWithIsWhatIsPinned(t *testing.T) {
	for name, version := range map[string]string{"nomad": TestedWith.Nomad, "consul": TestedWith.Consul, "nomad-autoscaler": TestedWith.NomadAutoscaler} {
		pins, err := os.ReadFile(filepath.Join("../../tools", name, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(pins), "github.com/hashicorp/"+name+" v"+version+"\n") && !strings.Contains(string(pins), "github.com/hashicorp/"+name+" v"+version+" ") {
			t.Errorf("tools/%s/go.mod does not pin version %s", name, version)
		}
	}
}
