// Package docs has the pages of documentation that programs show parts of.
package docs

import _ "embed"

// Operations is the page that says what to do about events and failures.
//
//go:embed operations.md
var Operations string
