package aliquot

import "testing"

// BenchmarkPrepare is what this driver adds to the docker driver's StartTask
// before the engine is asked for anything.
func BenchmarkPrepare(b *testing.B) {
	r := nvidiaTree(b)
	for _, lib := range []string{"libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4"} {
		r.file("usr/lib/x86_64-linux-gnu/"+lib, "")
	}
	s := attachSettings(r, AttachAuto)
	s.timeout = patience
	_, schema := schemas(b)
	cfg := newJob(b, schema, `{"variant": [{"a": [{"image": "x:1", "vendor": "amd"}]}, {"b": [{"image": "y:1", "constraint": [{"attribute": "memory", "operator": ">=", "value": "20 GiB"}]}]}]}`, reserved(wholeGrant()), nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.prepare(cfg, nil); err != nil {
			b.Fatal(err)
		}
	}
}
