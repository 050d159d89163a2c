package join

import "slices"

// add merges one event into the answer. It merges choices by their index, keeps the last usage, and
// of any other member the first value that is not null.
func (v *value) add(event *value) {
	for i, key := range event.keys {
		in := event.items[i]
		has := v.get(key)
		switch {
		case key == "choices" && in.kind == '[':
			if has == nil || has.kind != '[' {
				has = &value{kind: '['}
				v.set(key, has)
			}
			for _, c := range in.items {
				has.at(c).addChoice(c)
			}
		case has == nil, has.null(), key == "usage" && !in.null():
			v.set(key, in)
		}
	}
}

// at returns the element of a list with the same index, and appends one if there is none. A missing
// index counts as 0.
func (v *value) at(like *value) *value {
	index, _ := like.get("index").whole()
	for _, e := range v.items {
		if n, _ := e.get("index").whole(); n == index {
			return e
		}
	}
	e := &value{kind: '{'}
	v.items = append(v.items, e)
	return e
}

// sort orders the elements of a list by their index.
func (v *value) sort() {
	slices.SortStableFunc(v.items, func(a, b *value) int {
		x, _ := a.get("index").whole()
		y, _ := b.get("index").whole()
		return x - y
	})
}

// addChoice merges a part of a choice: it adds the delta to the message, appends text and lists,
// and of any other member keeps the last value that is not null.
func (v *value) addChoice(part *value) {
	for i, key := range part.keys {
		in := part.items[i]
		switch {
		case key == "delta":
			if in.kind == '{' {
				v.object("message").grow(in)
			}
		case key == "text" && in.kind == '"':
			v.extend(key, in)
		default:
			v.gather(key, in)
		}
	}
}

// object returns the member with a name, after replacing it by an object if it is not one.
func (v *value) object(key string) *value {
	if has := v.get(key); has != nil && has.kind == '{' {
		return has
	}
	o := &value{kind: '{'}
	v.set(key, o)
	return o
}

// extend appends to a string.
func (v *value) extend(key string, in *value) {
	if has := v.get(key); has != nil && has.kind == '"' {
		has.text = append(has.text, in.text...)
		return
	}
	v.set(key, &value{kind: '"', text: slices.Clone(in.text)})
}

// gather merges a member whose parts replace each other, except for lists, which are appended.
func (v *value) gather(key string, in *value) {
	has := v.get(key)
	switch {
	case has == nil || has.null():
		v.set(key, in)
	case in.null():
	case has.kind == '[' && in.kind == '[':
		has.items = append(has.items, in.items...)
	case has.kind == '{' && in.kind == '{':
		for i, k := range in.keys {
			has.gather(k, in.items[i])
		}
	default:
		v.set(key, in)
	}
}

// grow merges a delta: it appends strings and merges objects and lists. Names of kinds, and any
// other values, replace the former value.
func (v *value) grow(delta *value) {
	for i, key := range delta.keys {
		in := delta.items[i]
		has := v.get(key)
		switch {
		case in.null():
			if has == nil {
				v.set(key, in)
			}
		case in.kind == '"' && (key == "role" || key == "id" || key == "type"):
			if has == nil || has.null() || len(in.text) > 0 {
				v.set(key, in)
			}
		case in.kind == '"':
			v.extend(key, in)
		case in.kind == '{':
			v.object(key).grow(in)
		case in.kind == '[':
			v.list(key).growList(in)
		default:
			v.set(key, in)
		}
	}
}

func (v *value) list(key string) *value {
	if has := v.get(key); has != nil && has.kind == '[' {
		return has
	}
	l := &value{kind: '['}
	v.set(key, l)
	return l
}

// growList merges elements that have an index, and appends others.
func (v *value) growList(in *value) {
	for _, e := range in.items {
		if _, ok := e.get("index").whole(); ok {
			v.at(e).grow(e)
		} else {
			v.items = append(v.items, e)
		}
	}
}
