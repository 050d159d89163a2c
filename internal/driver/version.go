package driver

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// Compare compares two versions of digits and dots by their numbers, and returns -1, 0 or 1. A
// version that is a prefix of another is older.
func Compare(a, b string) int {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, errM := strconv.Atoi(x[i])
		n, errN := strconv.Atoi(y[i])
		if errM != nil || errN != nil {
			m, n = strings.Compare(x[i], y[i]), 0
		}
		if m != n {
			return cmp.Compare(m, n)
		}
	}
	return cmp.Compare(len(x), len(y))
}

// Branch returns the first number of a version, 0 if it has none.
func Branch(version string) int {
	first, _, _ := strings.Cut(version, ".")
	n, _ := strconv.Atoi(first)
	return n
}

// Upstream returns the vendor's version in that of a package, without the distribution's epoch and
// revision.
func Upstream(version string) string {
	if _, rest, ok := strings.Cut(version, ":"); ok {
		version = rest
	}
	if i := strings.LastIndex(version, "-"); i > 0 {
		version = version[:i]
	}
	return version
}

// versionForm matches versions of drivers. It is strict, because versions become arguments of
// programs that run as root.
var versionForm = regexp.MustCompile(`^[0-9]{1,6}(\.[0-9]{1,8}){1,3}$`)

// ValidVersion reports whether s is a complete version of a driver, such as 580.126.09.
func ValidVersion(s string) bool { return versionForm.MatchString(s) }
