package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/api"
)

// npmClients are the clients that most programs use.
var npmClients = []string{"openai@6.49.0", "@anthropic-ai/sdk@1.14.0"}

// clients installs them once and returns their folder. It skips the test if there is no node or no
// registry.
func clients(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Skip("there is no npm")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Skip(err)
	}
	dir := filepath.Join(cache, "aliquot", "npm-"+strings.NewReplacer("/", "-", "@", "-").Replace(strings.Join(npmClients, "-")))
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "@anthropic-ai", "sdk", "package.json")); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append([]string{"install", "--prefix", dir, "--no-audit", "--no-fund", "--ignore-scripts"}, npmClients...)
	if out, err := exec.CommandContext(ctx, "npm", args...).CombinedOutput(); err != nil {
		t.Skipf("npm cannot install %s: %v: %s", strings.Join(npmClients, ", "), err, out)
	}
	return dir
}

// OpenAI's and Anthropic's own clients work with the gateway: every API that it reads, streamed and
// not, the list of models, errors and limits. Their usage is counted.
func TestClientsOfOpenAIAndAnthropic(t *testing.T) {
	modules := clients(t)
	for name, settings := range map[string]string{
		"plain": "", "joined answers": "engine {\n join_answers = true\n}", "a salt for each tenant": "engine {\n cache_salt = \"tenant\"\n}",
	} {
		t.Run(name, func(t *testing.T) { useClients(t, modules, settings) })
	}
}

func useClients(t *testing.T, modules, settings string) {
	_, public, admin := behindGateway(t, settings+`
model = "m"
slo {
  ttft = "2s"
  tpot = "100ms"
}
route {
  models = ["m", "gpt-x"]
}
`, `
tenants {
  api_key = true
  tenant "team" {
    key_sha256 = ["`+fmt.Sprintf("%x", sha256.Sum256([]byte("key-of-team")))+`"]
    tokens_per_minute = 5000
  }
}
`)
	cmd := exec.CommandContext(t.Context(), "node", "testdata/clients.mjs", modules, public, "key-of-team")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s%s", err, out, errs.String())
	}
	got := map[string]any{}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const words = "a part that divides "
	for name, want := range map[string]any{
		"models":            "gpt-x,m",
		"model":             "m",
		"chat":              words,
		"chat usage":        4.0,
		"chat limit":        "5000",
		"chat streamed":     words,
		"chat stream usage": 4.0,
		"completion":        words,
		"alias":             words,
		"response":          words,
		"response streamed": words,
		"response usage":    4.0,
		"embeddings":        2.0,
		"embedding":         1.0,
		"message":           words,
		"message usage":     4.0,
		"message streamed":  words,
		"no such model":     "404 NotFoundError model_not_found",
		"too long":          "400 BadRequestError",
		"over the limit":    "429 RateLimitError rate_limit_exceeded tokens",
		"over, Anthropic":   "429 RateLimitError rate_limit_error",
	} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
	res, err := http.Get(admin + "/v1/usage")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var used api.Usage
	if err := json.NewDecoder(res.Body).Decode(&used); err != nil {
		t.Fatal(err)
	}
	// Eight answers of 4 tokens and one of 1; the engine refused one, and embeddings have none.
	if len(used.Usage) != 1 || used.Usage[0].Tenant != "team" || used.Usage[0].Output != 8*4+1 || used.Usage[0].Prompt == 0 {
		t.Errorf("the usage is %+v", used.Usage)
	}
}
