// Package version reports the release of a program, the commit it was built from, and the versions of
// Nomad, Consul and the Nomad Autoscaler that the release was tested with.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// Version is the release by semantic versioning, with "-dev" until it is tagged. A release build
// sets Version, commit and date through the linker's -X.
var Version = "0.1.0-dev"

var (
	commit = "" // full hash, with "-modified" if the tree was modified
	date   = "" // of the commit, RFC 3339, UTC
)

// Info describes the build of a program. A field is empty if the build does not record it.
type Info struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Date     string `json:"date"` // of the commit, RFC 3339, UTC
	Go       string `json:"go"`
	Platform string `json:"platform"` // such as linux/amd64
}

// Of returns information about the program's build. A build that is not a release takes commit and
// date from what the go command recorded. A build of a fetched module, by go install …@version, has
// the module's version.
func Of() Info {
	info := Info{Version, commit, date, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	if info.Commit != "" {
		return info
	}
	build, ok := debug.ReadBuildInfo()
	if !ok {
		return info
	}
	return recorded(info, build)
}

func recorded(info Info, build *debug.BuildInfo) Info {
	// A fetched module has a checksum; a checkout has none.
	if build.Main.Sum != "" {
		info.Version = strings.TrimPrefix(build.Main.Version, "v")
	}
	modified := false
	for _, s := range build.Settings {
		switch s.Key {
		case "vcs.revision":
			info.Commit = s.Value
		case "vcs.time":
			info.Date = s.Value
		case "vcs.modified":
			modified = s.Value == "true"
		}
	}
	if modified {
		info.Commit += "-modified"
	}
	return info
}

// String returns the line that -version prints.
func (i Info) String() string {
	built := "commit unknown"
	if i.Commit != "" {
		built = "commit " + i.Commit
	}
	if at, err := time.Parse(time.RFC3339, i.Date); err == nil {
		built += " of " + at.UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s (%s, %s, %s)", i.Version, built, i.Go, i.Platform)
}
