package amd

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// version is the version of an AMD SMI library. Major is the number in its soname.
type version struct{ Major, Minor uint32 }

func (v version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// versionOf decodes amdsmi_version_t. Its first word is the number in the soname in every release. The
// minor follows directly in 24.x and from 26 on, while 25.x first repeats the number.
func versionOf(b []byte) version {
	w := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
	if w(0) == 25 && w(1) == 25 {
		return version{25, w(2)}
	}
	return version{w(0), w(1)}
}

// field is the position of a value in a record of the library. Size 0 means that the record has no such
// value.
type field struct{ offset, size int }

func (f field) ok() bool { return f.size > 0 }

// uint reads a little-endian number. The second result is false if all bits are set, with which the
// library marks values that are not available.
func (f field) uint(b []byte) (uint64, bool) {
	switch f.size {
	case 4:
		n := binary.LittleEndian.Uint32(b[f.offset:])
		return uint64(n), n != 1<<32-1
	case 8:
		n := binary.LittleEndian.Uint64(b[f.offset:])
		return n, n != 1<<64-1
	}
	return 0, false
}

// text reads a C string that may fill its array.
func (f field) text(b []byte) string {
	s, _, _ := bytes.Cut(b[f.offset:f.offset+f.size], []byte{0})
	return string(bytes.ToValidUTF8(bytes.TrimSpace(s), nil))
}

// layout has the positions of values in the records of one release of the library. The offsets are
// those of the x86-64 C headers. Records changed, and shrank, within one soname, so no Go struct
// describes them.
type layout struct {
	asicName, asicDevice, asicUnits field
	vramSize                        field
	// powerCurrent and powerAverage are in watts. They have size 0 if the call itself cannot be
	// trusted.
	powerCurrent, powerAverage field
	// event is the size of one event record.
	event int
}

// Records that never changed.
var (
	engineGFX, engineMemory = field{0, 4}, field{4, 4}
	vramUsed                = field{4, 4}
	eccCorrectable          = field{0, 8}
	eccUncorrectable        = field{8, 8}
	eventHandle, eventKind  = field{0, 8}, field{8, 4}
)

// bufferSize is larger than every single record.
const bufferSize = 16 << 10

var (
	layout24r5 = layout{
		asicName: field{0, 64}, asicDevice: field{136, 8}, vramSize: field{8, 8},
		powerCurrent: field{0, 4}, powerAverage: field{4, 4}, event: 80,
	}
	layout24r6 = layout{
		asicName: field{0, 256}, asicDevice: field{328, 8}, vramSize: field{8, 8},
		powerCurrent: field{0, 4}, powerAverage: field{4, 4}, event: 80,
	}
	layout24r7 = layout{
		asicName: field{0, 256}, asicDevice: field{328, 8}, asicUnits: field{376, 4}, vramSize: field{8, 8},
		powerCurrent: field{0, 4}, powerAverage: field{4, 4}, event: 112,
	}
	// 25.2 had a third argument in amdsmi_get_power_info and 25.3 is unknown.
	layout25r2 = layout{
		asicName: field{0, 256}, asicDevice: field{520, 8}, asicUnits: field{792, 4}, vramSize: field{8, 8},
		event: 112,
	}
	layout25r4 = layout{
		asicName: field{0, 256}, asicDevice: field{520, 8}, asicUnits: field{792, 4}, vramSize: field{8, 8},
		powerCurrent: field{8, 4}, powerAverage: field{12, 4}, event: 112,
	}
	layout26 = layout{
		asicName: field{0, 256}, asicDevice: field{520, 8}, asicUnits: field{792, 4}, vramSize: field{264, 8},
		powerCurrent: field{8, 4}, powerAverage: field{12, 4}, event: 272,
	}
)

// layouts holds the releases whose headers were compared field by field (25.3,
// 26.0, 26.3 and 26.4 lie between releases that agree).
var layouts = map[version]layout{
	{24, 5}: layout24r5,
	{24, 6}: layout24r6,
	{24, 7}: layout24r7,
	{25, 1}: layout24r7,
	{25, 2}: layout25r2,
	{25, 3}: layout25r2,
	{25, 4}: layout25r4,
	{26, 0}: layout26, {26, 1}: layout26, {26, 2}: layout26,
	{26, 3}: layout26, {26, 4}: layout26, {26, 5}: layout26,
}
