package pack

import "strconv"

// Levels is how many levels of waste there are, 0 for the best.
const Levels = 10

// span is the growth of waste, in GPUs, at which the levels end on either side. What
// is beyond is rare and as good or as bad as the last.
const span = 0.4

// Level is the coarse form of a growth of waste in GPUs, 0 to Levels-1.
func Level(growth float64) int {
	step := 2 * span / (Levels - 1)
	return min(Levels-1, max(0, int((growth+span)/step+0.5)))
}

// rooms are the free GPU capacities, in GPUs, at which the coarse form of it changes.
var rooms = [...]float64{0, 0.5, 1, 1.5, 2, 3, 4, 5, 6}

// Rooms is how many levels of free capacity there are, 0 for none free.
const Rooms = len(rooms) + 1

// Room is the coarse form of free GPU capacity, 0 to Rooms-1.
func Room(free float64) int {
	const rounding = 1e-9
	for i, edge := range rooms {
		if free <= edge+rounding {
			return i
		}
	}
	return len(rooms)
}

// AttributePrefix begins the names of all node attributes that this package names. A
// name that begins with "unique." stays out of Nomad's computed node class.
const AttributePrefix = "unique.aliquot."

// RoomAttribute is the node attribute of the level of free capacity.
const RoomAttribute = AttributePrefix + "room"

// Attribute is the node attribute of a class. Its name is one that HCL takes in "${attr.…}".
func (c Class) Attribute() string { return AttributePrefix + "waste_" + c.Name }

// Attributes are what a node publishes of itself: for each class the level of waste
// that a task of it would add, and the level of free capacity.
func (d Demand) Attributes(classes []Class, n Node) map[string]string {
	out := map[string]string{RoomAttribute: strconv.Itoa(Room(n.Free()))}
	before := d.Waste(n)
	for _, c := range classes {
		level := Levels - 1
		if c.Typical.Fits(n) {
			level = Level(d.Waste(n.After(c.Typical, n.FirstFit(c.Typical))) - before)
		}
		out[c.Attribute()] = strconv.Itoa(level)
	}
	return out
}
