package doctor

import "fmt"

// littleRoom is less than most models take, in bytes.
const littleRoom = 20e9

// cache looks at whether the node's cache of models can do its work: without room tasks
// fail to start, without peers every node reads models from their origin by itself.
func cache(f Facts) []Finding {
	switch c := f.Cache; {
	case f.CacheProblem != "":
		return []Finding{{Failure,
			"cache", "the node's cache of models does not answer, so tasks with models do not start: " + f.CacheProblem,
			"look at  nomad job status cache  and the task's log; run doctor as root, whose the socket is"}}
	case c == nil:
		return nil // nobody asked for it
	case c.Room < littleRoom:
		return []Finding{{Warning,
			"cache",
			fmt.Sprintf("the cache has room for %.1f GB more: %.1f GB are in use by tasks or wanted by lists to "+
				"prefetch, and the disk has %.1f GB left", float64(c.Room)/1e9, float64(c.Bytes)/1e9,
				float64(c.Free)/1e9),
			"give it a larger disk (dir) or capacity, or take models from the lists (aliquot cache prefetch -remove)"}}
	case c.Self == "":
		return []Finding{{OK, "cache",
			fmt.Sprintf("the cache has room for %.0f GB more; its configuration has no peers",
				float64(c.Room)/1e9), ""}}
	case len(c.Peers) < 2:
		return []Finding{{Warning, "cache", "the cache knows no peer, so this node reads all models from their origin",
			"see that the caches of other nodes are healthy in Consul; a cluster of one node needs no peer block"}}
	default:
		return []Finding{{OK, "cache", fmt.Sprintf("the cache has room for %.0f GB more, and %d peers",
			float64(c.Room)/1e9, len(c.Peers)-1), ""}}
	}
}
