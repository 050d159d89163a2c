package pack

import "strconv"

// Levels is the number of levels of waste. Level 0 is the best.
const Levels = 10

// span is the growth of waste, in GPUs, at which the levels end on either side. A growth
// beyond it is rare and counts as the last level.
const span = 0.4

// Level returns the level of a growth of waste in GPUs, 0 to Levels-1.
func Level(growth float64) int {
	step := 2 * span / (Levels - 1)
	return min(Levels-1, max(0, int((growth+span)/step+0.5)))
}

// rooms are the free GPU capacities, in GPUs, at which the level of free capacity changes.
var rooms = [...]float64{0, 0.5, 1, 1.5, 2, 3, 4, 5, 6}

// Rooms is the number of levels of free capacity. Level 0 means that nothing is free.
const Rooms = len(rooms) + 1

// Room returns the level of a free GPU capacity in GPUs, 0 to Rooms-1.
func Room(free float64) int {
	const rounding = 1e-9
	for i, edge := range rooms {
		if free <= edge+rounding {
			return i
		}
	}
	return len(rooms)
}

// AttributePrefix begins the names of the node attributes of this package. A name that
// begins with "unique." stays out of Nomad's computed node class.
const AttributePrefix = "unique.aliquot."

// RoomAttribute is the node attribute of the level of free capacity.
const RoomAttribute = AttributePrefix + "room"

// Attribute returns the node attribute of a class. HCL accepts the name in "${attr.…}".
func (c Class) Attribute() string { return AttributePrefix + "waste_" + c.Name }

// Attributes returns what a node publishes: for each class the level of the waste that a
// task of the class would add, and the level of free capacity.
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
