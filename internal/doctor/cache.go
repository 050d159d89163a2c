package doctor

import "fmt"

// littleRoom is a size, in bytes, that most models exceed.
const littleRoom = 20e9

// cache checks the node's model cache. Without space, tasks fail to start. Without peers, every node
// reads models from their origin.
func cache(f Facts) []Finding {
	switch c := f.Cache; {
	case f.CacheProblem != "":
		return []Finding{{Failure,
			"cache", "the node's model cache does not answer, so tasks with models do not start: " + f.CacheProblem,
			"look at  nomad job status cache  and the task's log; run doctor as root, which owns the socket"}}
	case c == nil:
		return nil // the node has no cache
	case c.Room < littleRoom:
		return []Finding{{Warning,
			"cache",
			fmt.Sprintf("the cache has room for %.1f GB more: %.1f GB are used by tasks or needed by prefetch lists, "+
				"and the disk has %.1f GB left", float64(c.Room)/1e9, float64(c.Bytes)/1e9,
				float64(c.Free)/1e9),
			"give it a larger disk (dir) or capacity, or remove models from the lists " +
				"(aliquot cache prefetch -remove)"}}
	case c.Self == "":
		return []Finding{{OK, "cache",
			fmt.Sprintf("the cache has room for %.0f GB more; its configuration has no peers",
				float64(c.Room)/1e9), ""}}
	case len(c.Peers) < 2:
		return []Finding{{Warning, "cache", "the cache knows no peer, so this node reads all models from their origin",
			"check that the caches of other nodes are healthy in Consul; on a cluster of one node, " +
				"remove the peer block"}}
	default:
		return []Finding{{OK, "cache", fmt.Sprintf("the cache has room for %.0f GB more, and %d peers",
			float64(c.Room)/1e9, len(c.Peers)-1), ""}}
	}
}
