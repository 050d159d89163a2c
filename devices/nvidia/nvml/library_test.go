package nvml

import "testing"

// A list grows while the processes do, up to a bound.
func TestGrown(t *testing.T) {
	for _, have := range []uint32{0, 1, minRecords, minRecords + 1, 1000, maxRecords} {
		list, r := grown(func(count *uint32, first *processV1) Return {
			if *count < have {
				*count = have
				return InsufficientSize
			}
			*count = have
			return Success
		})
		if r != Success || uint32(len(list)) != have {
			t.Errorf("%d of %d, %d", len(list), have, r)
		}
	}
	calls := 0
	if list, r := grown(func(*uint32, *processV1) Return { calls++; return InsufficientSize }); r != InsufficientSize || list != nil || calls > 20 {
		t.Errorf("%d calls, %d records, %d", calls, len(list), r)
	}
}

// What is no NVML is refused or answers FunctionNotFound; nothing ends the process.
func TestAnotherLibrary(t *testing.T) {
	if _, err := Open("libnone.so.1"); err == nil {
		t.Error("a library that is not there was opened")
	}
	l, err := Open("libc.so.6")
	if err != nil {
		t.Skip(err)
	}
	if r := l.Init(); r != FunctionNotFound {
		t.Errorf("Init: %d", r)
	}
	d := Device{lib: l}
	if _, r := d.UUID(); r != FunctionNotFound {
		t.Errorf("UUID: %d", r)
	}
	if list, r := d.MPSProcesses(); r != FunctionNotFound || len(list) > 0 {
		t.Errorf("MPSProcesses: %v, %d", list, r)
	}
	if l.Has("nvmlInit_v2") || !l.Has("malloc") {
		t.Error("Has is wrong")
	}
}
