package compiled

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"time"
)

func key() Key {
	return Key{
		Namespace: "default", Job: "chat", Vendor: "v", Target: "9.0", Driver: "580.1", Machine: "amd64-1", Image: "sha256:1",
		Models: []string{"hf://a/b@1"}, Args: []string{"serve", "a/b"}, Env: map[string]string{"VLLM_X": "1"},
	}
}

// No snapshot crosses jobs, namespaces, drivers, architectures, images, models or
// arguments: each field alone makes another key.
func TestEachFieldMakesAnotherKey(t *testing.T) {
	seen := map[string]string{key().Sum(): "nothing"}
	fields := reflect.TypeFor[Key]()
	for i := range fields.NumField() {
		k := key()
		switch f := reflect.ValueOf(&k).Elem().Field(i); f.Kind() {
		case reflect.String:
			f.SetString(f.String() + "x")
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"x"}))
		case reflect.Map:
			f.Set(reflect.ValueOf(map[string]string{"VLLM_X": "2"}))
		default:
			t.Fatalf("%s: say how it changes", fields.Field(i).Name)
		}
		if other, ok := seen[k.Sum()]; ok {
			t.Errorf("a change of %s makes the key of a change of %s", fields.Field(i).Name, other)
		}
		seen[k.Sum()] = fields.Field(i).Name
		if !IsSum(k.Sum()) {
			t.Errorf("%q is no sum", k.Sum())
		}
	}
}

// Texts cannot run over from one field into the next.
func TestKeysAreEqualOnlyIfAllIs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func() string { return []string{"", "a", "b", "ab", "1:a,", "a,b"}[r.IntN(6)] }
	words := func() (w []string) {
		for range r.IntN(3) {
			w = append(w, word())
		}
		return w
	}
	seen := map[string]string{}
	for range 20000 {
		k := Key{word(), word(), word(), word(), word(), word(), word(), words(), words(), map[string]string{word(): word()}}
		text := fmt.Sprintf("%#v", k)
		if other, ok := seen[k.Sum()]; ok && other != text {
			t.Fatalf("one key for\n%s\n%s", text, other)
		}
		seen[k.Sum()] = text
	}
}

func TestIncompleteKeysAreNone(t *testing.T) {
	if err := key().Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Key){
		"namespace": func(k *Key) { k.Namespace = "" }, "job": func(k *Key) { k.Job = "" }, "digest of the image": func(k *Key) { k.Image = "" },
		"processor": func(k *Key) { k.Machine = "" }, "driver": func(k *Key) { k.Driver = "" }, "instruction set": func(k *Key) { k.Target = "" },
	} {
		k := key()
		change(&k)
		if err := k.Check(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	k := key()
	k.Vendor, k.Target, k.Driver = "", "", ""
	if err := k.Check(); err != nil {
		t.Errorf("without a GPU: %v", err)
	}
}

func TestArgumentsOfOneGroupAreAlike(t *testing.T) {
	args := func(port string) []string {
		return Arguments([]string{"serve", "--port", port, "--url=http://10.0.0.1:" + port + "/x", "--max-model-len", port + "0", "--seed", "1"},
			map[string]string{"NOMAD_PORT_http": port, "NOMAD_ADDR_http": "10.0.0.1:" + port, "NOMAD_ALLOC_INDEX": "1", "NOMAD_PORT_none": ""})
	}
	a, b := args("2345"), args("6789")
	want := []string{"serve", "--port", "${NOMAD_PORT_http}", "--url=http://${NOMAD_ADDR_http}/x", "--max-model-len", "23450", "--seed", "1"}
	if !slices.Equal(a, want) {
		t.Errorf("arguments are %q, want %q", a, want)
	}
	a[5], b[5] = "", ""
	if !slices.Equal(a, b) {
		t.Errorf("%q and %q", a, b)
	}
}

func FuzzReplaceWord(f *testing.F) {
	f.Add("--port=23", "23", "x")
	f.Fuzz(func(t *testing.T, text, word, by string) {
		if word == "" {
			return
		}
		if got := replaceWord(text, word, word); got != text {
			t.Errorf("%q became %q", text, got)
		}
		_ = replaceWord(text, word, by)
	})
}

func TestRelevantEnvironment(t *testing.T) {
	env := map[string]string{"VLLM_USE_V1": "1", "VLLM_API_KEY": "s", "HF_TOKEN": "s", "NOMAD_ALLOC_ID": "1", "TORCH_LOGS": "x", "PATH": "/bin"}
	maps.Copy(env, Places("/c"))
	if got := Relevant(env); !maps.Equal(got, map[string]string{"VLLM_USE_V1": "1", "TORCH_LOGS": "x"}) {
		t.Errorf("relevant are %v", got)
	}
}

// docs/driver.md lists the variables and no others.
func TestThePageListsTheVariables(t *testing.T) {
	text, err := os.ReadFile("../../docs/driver.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "### Variables of compile caches\n")
	table, _, _ = strings.Cut(table, "\n## ")
	var page []string
	for _, m := range regexp.MustCompile("`([A-Z0-9_]+)`").FindAllStringSubmatch(table, -1) {
		page = append(page, m[1])
	}
	slices.Sort(page)
	if want := slices.Sorted(maps.Keys(Places("/c"))); !ok || !slices.Equal(page, want) {
		t.Errorf("the page lists %v, want %v", page, want)
	}
}

func TestPlacesAreBelowTheDirectory(t *testing.T) {
	for name, value := range Places("/c") {
		if _, setting := settings[name]; !setting && !strings.HasPrefix(value, "/c/") {
			t.Errorf("%s is %s", name, value)
		}
	}
	seen := map[string]bool{}
	for _, f := range Folders() {
		if seen[f] || path.Clean(f) != f || path.IsAbs(f) {
			t.Errorf("folder %q", f)
		}
		seen[f] = true
	}
}

// Whatever is seen: nothing is published that changed, was empty, was seeded, or whose
// task was ill, within the time.
func TestOnlyWhatSettledIsPublished(t *testing.T) {
	const each = 10 * time.Second
	check := func(looks []struct {
		Sum     uint8
		Healthy bool
	}) bool {
		start := time.Unix(1000, 0)
		seed := Tree{Files: 1, Sum: "1"}
		s := Settling{For: 3 * each, Until: start.Add(20 * each), Seed: seed}
		for i, l := range looks {
			now := start.Add(time.Duration(i) * each)
			tree := Tree{Files: int(l.Sum % 3), Sum: fmt.Sprint(l.Sum % 3)}
			switch s.Observe(now, tree, l.Healthy) {
			case Publish:
				for _, before := range looks[max(0, i-2) : i+1] {
					if before.Sum%3 != l.Sum%3 || !before.Healthy {
						return false
					}
				}
				return i >= 3 && tree.Files > 0 && tree != seed
			case Leave:
				return i >= 20
			}
		}
		return true
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 5000}); err != nil {
		t.Error(err)
	}
	s := Settling{For: time.Second, Until: time.Unix(1000, 0)}
	tree := Tree{Files: 2, Sum: "x"}
	if v := s.Observe(time.Unix(1, 0), tree, true); v != Wait {
		t.Errorf("at once: %d", v)
	}
	if v := s.Observe(time.Unix(2, 0), tree, true); v != Publish {
		t.Errorf("settled: %d", v)
	}
}

// A directory that changes whenever it is packed is packed a few times, each time after a
// longer rest, and then left.
func TestWhatChangesAllTheTimeIsLeft(t *testing.T) {
	s := Settling{For: time.Second, Until: time.Unix(7200, 0)}
	var packed []int
	for second := 1; second < 7200; second++ {
		// The program writes once in a while, and always during the packing.
		tree := Tree{Files: 1, Sum: fmt.Sprint(len(packed))}
		if s.Observe(time.Unix(int64(second), 0), tree, true) != Publish {
			continue
		}
		packed = append(packed, second)
		if s.Changed() == Leave {
			break
		}
	}
	if want := []int{2, 5, 10, 19}; !slices.Equal(packed, want) {
		t.Errorf("it was packed at %v, want %v", packed, want)
	}
}
