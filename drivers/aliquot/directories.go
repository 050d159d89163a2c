package aliquot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/nomad/client/allocdir"
	"github.com/hashicorp/nomad/client/taskenv"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// ownPlaces are the paths in a container of the directories that the docker driver binds from the
// allocation. The docker driver takes them from the task's environment, which jobs and templates
// may set, even to a path with a mode such as "/alloc:rw". So this driver sets them.
var ownPlaces = map[string]string{
	taskenv.AllocDir:     allocdir.SharedAllocContainerPath,
	taskenv.TaskLocalDir: allocdir.TaskLocalContainerPath,
	taskenv.SecretsDir:   allocdir.TaskSecretsContainerPath,
}

// realDirectories fails if one of the directories that the docker driver binds, or one of its parents in
// the allocation, is not a directory: a task that has replaced it by a link would get the target of the
// link when it starts again.
func realDirectories(cfg *drivers.TaskConfig) error {
	root, err := os.OpenRoot(cfg.AllocDir)
	if err != nil {
		return err
	}
	defer root.Close()
	dirs := cfg.TaskDir()
	// the shared directory is above the logs
	for _, dir := range []string{dirs.LogDir, dirs.LocalDir, dirs.SecretsDir} {
		rel, err := filepath.Rel(cfg.AllocDir, dir)
		if err != nil {
			return err
		}
		parts := strings.Split(rel, string(filepath.Separator))
		for i := range parts {
			part := filepath.Join(parts[:i+1]...)
			if info, err := root.Lstat(part); err != nil {
				return fmt.Errorf("the allocation's directory: %w", err)
			} else if !info.IsDir() {
				return fmt.Errorf("%s in the allocation's directory is not a directory any more: "+
					"a task has replaced it, and the driver does not mount the replacement", part)
			}
		}
	}
	return nil
}

// ownsDirectories returns why a task could, through a writable mount, replace directories that Nomad and
// the docker driver open by path, or "" if it could not.
func ownsDirectories(allocDir string, a source) string {
	rel, err := filepath.Rel(resolved(allocDir), resolved(a.path))
	if err != nil || a.readonly || strings.HasPrefix(rel, "..") {
		return ""
	}
	switch {
	case rel == ".":
		return "is the allocation's directory"
	case !strings.Contains(rel, string(filepath.Separator)) && rel != allocdir.SharedAllocName:
		return "is a task's directory"
	}
	return ""
}
