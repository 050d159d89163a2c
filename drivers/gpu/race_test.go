//go:build race

package gpu

func init() { raced = true }
