package amd

import (
	"fmt"
	"strings"

	"aliquot.example/devices/plugin"
)

// bytesPerBadPage is the amount of memory for which the driver tolerates one retired page: its
// default threshold on a card of 65520 MiB is 655 (amd-smi static of an MI210).
const bytesPerBadPage = 100 << 20

// health is a reading of a card's condition. Counts that could not be read are zero.
type health struct {
	// Lost is set if the card has fallen off the bus.
	Lost bool
	// Silent is set if the card has not answered the library for several rounds.
	Silent bool
	// Resetting is set between the driver's events before and after a reset.
	Resetting bool
	// Uncorrectable and Correctable RAS errors since the driver was loaded or the
	// card reset.
	Uncorrectable, Correctable uint64
	// BadPages of memory that are retired or about to be, of BadPageLimit.
	BadPages, BadPageLimit uint64
}

// problem returns why a card must not take tasks, or "" if it may. Every round reads all causes again,
// so the card returns when the cause has gone: counters start at zero after a reset or a reload of the
// driver, and a replaced card has no bad pages.
func (h health) problem(maxUncorrectable int) string {
	var why []string
	if h.Resetting {
		why = append(why, "it is being reset")
	}
	if h.Lost {
		why = append(why, "it has fallen off the bus: its configuration space reads all ones; the host needs a reboot")
	}
	if h.Silent {
		why = append(why, "it does not answer AMD SMI; reset it (amd-smi reset -g) or reboot")
	}
	if h.Uncorrectable > uint64(maxUncorrectable) {
		why = append(why,
			fmt.Sprintf("%d uncorrectable RAS errors (max_uncorrectable = %d); "+
				"reset it (amd-smi reset -g) or reload the driver", h.Uncorrectable, maxUncorrectable))
	}
	if h.BadPageLimit > 0 && h.BadPages > h.BadPageLimit {
		why = append(why, fmt.Sprintf("%d bad memory pages, over its limit of %d; replace it", h.BadPages,
			h.BadPageLimit))
	}
	return strings.Join(why, "; ")
}

// health reads a card's condition from the library or, if that does not answer, from the kernel's
// files.
func (v *vendor) health(c card) health {
	h := health{Resetting: v.lib.reset(c), Lost: v.Lost(c.PCI.String())}
	s := v.lib.use()
	fromLibrary := false
	if s != nil {
		h.Uncorrectable, h.Correctable, fromLibrary = s.ecc(c)
	}
	if !fromLibrary {
		h.Uncorrectable, h.Correctable = v.errorCounts(c)
	}
	h.BadPages, h.BadPageLimit = v.badPages(c, s)
	return h
}

// unresponsive makes one call about a card per round, and reports whether the last plugin.Patience calls
// failed. For a card that has never answered it returns false: the call itself may fail there, so only
// the kernel's files show the card's health.
func (v *vendor) unresponsive(c card) bool {
	s := v.lib.use()
	if s == nil {
		return false
	}
	subject := "silence " + string(c.ID)
	asked, err := s.answers(c)
	if !asked {
		return false
	}
	if err == nil {
		v.missed[c.ID] = 0
		v.logged.warn(subject, "", "")
		return false
	}
	if _, answered := v.missed[c.ID]; !answered {
		v.logged.warn(subject, "a GPU has never answered AMD SMI; using only the kernel's files for its health",
			logText(c, err.Error()))
		return false
	}
	v.missed[c.ID]++
	return v.missed[c.ID] >= plugin.Patience
}

// errorCounts adds up the RAS counters of a card's blocks. It ignores missing and truncated files.
func (m machine) errorCounts(c card) (uncorrectable, correctable uint64) {
	dir := pciDir + "/" + c.PCI.String() + "/ras"
	for _, name := range m.Names(dir) {
		if !strings.HasSuffix(name, "_err_count") {
			continue
		}
		text, err := m.Text(dir, name)
		if err != nil {
			continue
		}
		if ue, ce, err := errorCounts(text); err == nil {
			uncorrectable, correctable = uncorrectable+ue, correctable+ce
		}
	}
	return uncorrectable, correctable
}

// badPages returns the number of a card's bad pages and its limit, which is the first that is known
// of: the configuration's, the library's, the driver's parameter, the driver's default.
func (v *vendor) badPages(c card, s *smi) (count, limit uint64) {
	known := false
	if s != nil {
		var n, most uint32
		n, most, known = s.badPages(c)
		count, limit = uint64(n), uint64(most)
	}
	if !known {
		count = uint64(badPages(v.TextOr("", pciDir, c.PCI.String(), "ras", "gpu_vram_bad_pages")))
	}
	if n, err := v.Number("sys/module/amdgpu/parameters/bad_page_threshold"); limit == 0 && err == nil && n > 0 {
		limit = uint64(n)
	}
	if limit == 0 {
		var memory uint64
		for _, n := range c.Nodes {
			memory += n.Memory
		}
		limit = memory / bytesPerBadPage
	}
	if v.maxBadPages > 0 {
		limit = uint64(v.maxBadPages)
	}
	return count, limit
}
