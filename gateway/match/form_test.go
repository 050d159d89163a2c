package match

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"testing"

	"pgregory.net/rapid"
)

// What FormModel finds is what the standard library's reader finds, at its place.
func TestFormModelFindsTheField(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var text bytes.Buffer
		w := multipart.NewWriter(&text)
		for range rapid.IntRange(0, 4).Draw(rt, "parts") {
			name := rapid.SampledFrom([]string{"model", "file", "mode", "model2"}).Draw(rt, "name")
			value := rapid.SliceOfN(rapid.SampledFrom([]byte("a\r\n-\"x:")), 0, 30).Draw(rt, "value")
			if rapid.Bool().Draw(rt, "file") {
				part, _ := w.CreateFormFile(name, "f")
				part.Write(value)
			} else {
				w.WriteField(name, string(value))
			}
		}
		w.Close()
		h := http.Header{"Content-Type": {w.FormDataContentType()}}
		want := formModel(bytes.NewReader(text.Bytes()), w.Boundary())
		from, to, ok := FormModel(text.Bytes(), h)
		if got := string(text.Bytes()[from:to]); ok && got != want || !ok && want != "" {
			rt.Fatalf("found %q (%v), want %q in\n%s", got, ok, want, text.Bytes())
		}
		cut := rapid.IntRange(0, text.Len()).Draw(rt, "cut")
		if from, to, ok := FormModel(text.Bytes()[:cut], h); ok && string(text.Bytes()[from:to]) != want {
			rt.Fatalf("cut at %d: found %q, want %q", cut, text.Bytes()[from:to], want)
		}
	})
}
