// Package version holds the release that every program of the suite reports.
package version

// Version is the release, semantic versioning; "-dev" until it is tagged.
const Version = "0.1.0-dev"
