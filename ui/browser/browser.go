// Package browser drives a real Chromium, for tests and for the screenshots in docs.
package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Missing returns why no browser can be started, "" if one can.
func Missing() string {
	if _, err := program(); err != nil {
		return "needs Chromium: apt-get install chromium"
	}
	return ""
}

func program() (string, error) {
	if path := os.Getenv("ALIQUOT_CHROMIUM"); path != "" {
		return path, nil
	}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("no Chromium")
}

// Browser is one running Chromium with one page.
type Browser struct {
	ctx  context.Context
	stop []context.CancelFunc

	mu      sync.Mutex
	console []string
}

// Heard returns the errors that the page wrote to its console, including uncaught ones.
func (b *Browser) Heard() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.console)
}

// Start starts a Chromium with a new data directory.
func Start(ctx context.Context) (*Browser, error) {
	path, err := program()
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("force-color-profile", "srgb"))
	options = append(options, chromedp.WSURLReadTimeout(time.Minute))
	ctx, stopProcess := chromedp.NewExecAllocator(ctx, options...)
	ctx, stopPage := chromedp.NewContext(ctx)
	b := &Browser{ctx: ctx, stop: []context.CancelFunc{stopPage, stopProcess}}
	chromedp.ListenTarget(ctx, b.onConsole)
	if err := chromedp.Run(ctx, log.Enable(), runtime.Enable()); err != nil {
		b.Stop()
		return nil, fmt.Errorf("chromium: %w", err)
	}
	return b, nil
}

func (b *Browser) onConsole(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.console = append(b.console, e.ExceptionDetails.Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.APITypeError {
			b.console = append(b.console, fmt.Sprint(e.Args[0].Description, string(e.Args[0].Value)))
		}
	case *log.EventEntryAdded:
		if e.Entry.Source == log.SourceSecurity || e.Entry.Source == log.SourceViolation {
			b.console = append(b.console, e.Entry.Text)
		}
	}
}

// Stop ends the browser.
func (b *Browser) Stop() {
	for _, f := range b.stop {
		f()
	}
}

// Window sets the size of the window in CSS pixels, and the theme, "light" or "dark".
func (b *Browser) Window(width, height int, theme string) error {
	return chromedp.Run(b.ctx,
		chromedp.EmulateViewport(int64(width), int64(height)),
		emulation.SetEmulatedMedia().WithFeatures(
			[]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}),
	)
}

// Open goes to an address.
func (b *Browser) Open(address string) error { return chromedp.Run(b.ctx, chromedp.Navigate(address)) }

// Eval evaluates JavaScript, waits if the result is a promise, and decodes its value into v.
func (b *Browser) Eval(script string, v any) error {
	return chromedp.Run(b.ctx, chromedp.Evaluate(script, v, func(p *runtime.EvaluateParams) *runtime.EvaluateParams {
		return p.WithAwaitPromise(true)
	}))
}

// Await waits until a JavaScript expression is true.
func (b *Browser) Await(ctx context.Context, expression string) error {
	ctx, cancel := context.WithCancel(b.within(ctx))
	defer cancel()
	err := chromedp.Run(ctx, chromedp.Poll(expression, nil, chromedp.WithPollingInterval(100*time.Millisecond),
		chromedp.WithPollingTimeout(0)))
	if err != nil {
		var text string
		_ = b.Eval("document.body.innerText.slice(0, 2000)", &text)
		return fmt.Errorf("waiting for %s: %w; the page shows:\n%s", expression, err, text)
	}
	return nil
}

// within returns the page's context, which also ends when ctx ends.
func (b *Browser) within(ctx context.Context) context.Context {
	out, cancel := context.WithCancel(b.ctx)
	context.AfterFunc(ctx, cancel)
	return out
}

// Picture returns a screenshot of the window as PNG.
func (b *Browser) Picture() ([]byte, error) {
	var out []byte
	err := chromedp.Run(b.ctx, chromedp.ActionFunc(func(ctx context.Context) (err error) {
		out, err = page.CaptureScreenshot().WithFormat(page.CaptureScreenshotFormatPng).Do(ctx)
		return err
	}))
	return out, err
}
