package intel

// Model is what follows from a PCI device ID alone.
type Model struct {
	Name string
	// Target is the chip's name for Intel's offline compiler.
	Target string
}

// Models of cards by PCI device ID: pci.ids (2025-06), Intel's names of the Arc Pro B-series.
var Models = map[uint16]Model{
	0x0bd5: {"Intel Data Center GPU Max 1550", "pvc"},
	0x0bd6: {"Intel Data Center GPU Max 1550", "pvc"},
	0x0bd7: {"Intel Data Center GPU Max 1350", "pvc"},
	0x0bd8: {"Intel Data Center GPU Max 1350", "pvc"},
	0x0bd9: {"Intel Data Center GPU Max 1100", "pvc"},
	0x0bda: {"Intel Data Center GPU Max 1100", "pvc"},
	0x0bdb: {"Intel Data Center GPU Max 1100", "pvc"},
	0x0b69: {"Intel Data Center GPU Max 1450", "pvc"},
	0x56c0: {"Intel Data Center GPU Flex 170", "acm-g10"},
	0x56c1: {"Intel Data Center GPU Flex 140", "acm-g11"},
	0x56c2: {"Intel Data Center GPU Flex 170V", "acm-g10"},
	0x56a0: {"Intel Arc A770", "acm-g10"},
	0x56a1: {"Intel Arc A750", "acm-g10"},
	0xe20b: {"Intel Arc B580", "bmg-g21"},
	0xe20c: {"Intel Arc B570", "bmg-g21"},
	0xe211: {"Intel Arc Pro B60", "bmg-g21"},
	0xe212: {"Intel Arc Pro B50", "bmg-g21"},
}
