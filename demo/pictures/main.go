// Command pictures takes screenshots of a page that aliquot ui serves, for the documentation: each
// view in a wide and a narrow window, light and dark. With -terminal it draws the demo's terminal
// from a recording instead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"aliquot.example/ui/browser"
)

// picture is a screenshot of a view at a window size.
type picture struct {
	file, view    string
	width, height int
	theme         string
	shows         string // a JavaScript expression that is true once the view is drawn
}

func pictures(service string) []picture {
	drawn := `/waiting [0-9]/.test(document.querySelector(".plot")?.ariaLabel)` // the newest second is drawn
	decided := `document.querySelectorAll(".plot canvas").length >= 3`
	return []picture{
		{"service-light", "services/" + service, 1440, 1000, "light", drawn},
		{"service-dark", "services/" + service, 1440, 1000, "dark", drawn},
		{"service-narrow", "services/" + service, 390, 844, "dark", drawn},
		{"cluster-light", "cluster", 1440, 900, "light", `document.querySelectorAll(".gpu").length > 0`},
		{"cluster-dark", "cluster", 1440, 900, "dark", `document.querySelectorAll(".gpu").length > 0`},
		{"cluster-narrow", "cluster", 390, 844, "light", `document.querySelectorAll(".gpu").length > 0`},
		{"requests-light", "requests", 1440, 900, "light", `/Slowest \([1-9]/.test(document.body.innerText)`},
		{"scaling-light", "scaling/" + service, 1440, 1250, "light", decided},
		{"scaling-dark", "scaling/" + service, 1440, 1250, "dark", decided},
		{"scaling-narrow", "scaling/" + service, 390, 844, "light", decided},
		{"events-dark", "events", 1440, 900, "dark", `document.querySelectorAll(".decisions li").length > 0`},
	}
}

func main() {
	page := flag.String("page", "", "address of the page")
	out := flag.String("out", "docs/pictures", "folder for the pictures")
	service := flag.String("service", "chat", "the service whose view is taken")
	recording := flag.String("terminal", "", "a recording of the demo by script, to draw as docs/demo.svg")
	flag.Parse()
	if *recording != "" {
		if err := terminal(*recording, "docs/demo.svg"); err != nil {
			fmt.Fprintln(os.Stderr, "pictures:", err)
			os.Exit(1)
		}
		return
	}
	if err := take(*page, *out, *service); err != nil {
		fmt.Fprintln(os.Stderr, "pictures:", err)
		os.Exit(1)
	}
}

func take(page, out, service string) error {
	if page == "" {
		return errors.New("-page is missing: give the address at which aliquot ui serves")
	}
	if why := browser.Missing(); why != "" {
		return errors.New(why)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	b, err := browser.Start(ctx)
	if err != nil {
		return err
	}
	defer b.Stop()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := b.Open(page); err != nil {
		return err
	}
	if err := b.Eval(`localStorage.setItem("aliquot.range", "300")`, nil); err != nil {
		return err
	}
	for _, p := range pictures(service) {
		if err := b.Window(p.width, p.height, p.theme); err != nil {
			return err
		}
		// A new address each time makes the browser load the page in its theme.
		if err := b.Open(page + "/?" + p.file + "#/" + p.view); err != nil {
			return err
		}
		if err := b.Await(ctx, p.shows); err != nil {
			return fmt.Errorf("%s: %w", p.file, err)
		}
		bytes, err := b.Picture()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, p.file+".png"), bytes, 0o644); err != nil {
			return err
		}
	}
	return nil
}
