//go:build race

package aliquot

func init() { raced = true }
