// Command dispatch compares the gateway with other proxies in front of replicas
// of unequal speed. With -sim it only runs the gateway's policy in virtual time.
package main

import (
	"flag"
)

func main() {
	sim := flag.Bool("sim", false, "run the policy alone, in virtual time")
	flag.Parse()
	if *sim {
		simTable([]float64{0.5, 0.7, 0.8, 0.9, 0.95}, 6, 40000)
		return
	}
}
