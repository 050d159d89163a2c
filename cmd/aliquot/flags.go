package main

import (
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/hashicorp/cli"
)

// flagSet reports a wrong flag in one line and points at the command's help.
type flagSet struct {
	*flag.FlagSet
	ui cli.Ui
}

func newFlags(command string, ui cli.Ui) flagSet {
	set := flag.NewFlagSet(command, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return flagSet{set, ui}
}

// parse parses the flags of a command that takes no other arguments. If it returns false, it has
// reported the error to the user.
func (f flagSet) parse(args []string) bool {
	err := f.Parse(args)
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", strings.Join(f.Args(), " "))
	}
	if err != nil {
		f.ui.Error(fmt.Sprintf("aliquot %s: %v; see aliquot %s -help", f.Name(), err, f.Name()))
	}
	return err == nil
}

// runService runs a service whose settings all have defaults, or only checks its configuration file.
func runService[C any](ui cli.Ui, name string, args []string, load func(path string) (C, error),
	run func(conf C, path string) error) int {
	flags := newFlags(name, ui)
	path := flags.String("config", "", "")
	check := flags.Bool("check", false, "")
	if !flags.parse(args) {
		return 2
	}
	conf, err := load(*path)
	if err == nil && !*check {
		err = run(conf, *path)
	}
	if err != nil {
		ui.Error("aliquot " + name + ": " + flat(err))
		return 1
	}
	if *check && *path != "" {
		ui.Output(*path + " is a valid configuration of the " + name)
	}
	return 0
}

// maxErrorText is the limit on an error's text, in bytes.
const maxErrorText = 500

// flat formats an error as one line: a server's response in it, such as a page of HTML, may have
// many.
func flat(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > maxErrorText {
		text = strings.ToValidUTF8(text[:maxErrorText], "") + " …"
	}
	return strings.TrimSuffix(text, ".")
}
