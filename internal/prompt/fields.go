package prompt

import "strconv"

// fields are the relevant members of a body, as JSON text.
type fields struct {
	// seed are the members that decide which cache a prompt may share: the model, an adapter, a
	// salt. first are those that model servers put before the conversation.
	seed  [5][]byte
	first [5][]byte

	messages, prompt, input []byte

	limit, answers  int64
	exact, streamed bool
}

// read finds the members. It returns false if the text is not a JSON object.
func (f *fields) read(body []byte) bool {
	c := newCursor(body)
	if c.next() != '{' {
		return false
	}
	c.at++
	for c.next() == '"' {
		key := c.quoted()
		if !c.colon() {
			return true
		}
		f.member(string(key), c.value())
	}
	return true
}

// Model returns the position of the value of "model" in a JSON object, with its quotes, and of the
// last one if there are several. It returns false if none is a string.
func Model(body []byte) (from, to int, ok bool) {
	c := newCursor(body)
	if c.next() != '{' {
		return 0, 0, false
	}
	c.at++
	for c.next() == '"' {
		key := c.quoted()
		if !c.colon() {
			break
		}
		first := c.next()
		at := c.at
		if c.value(); string(key) == "model" {
			from, to, ok = at, c.at, first == '"'
		}
	}
	return from, to, ok
}

// Members calls each for the members of the JSON object in a body, with the key as it is written,
// but without its quotes, and the position of the value. It returns the position after the opening
// brace, or false if the body is not a complete object.
func Members(body []byte, each func(key []byte, from, to int)) (open int, ok bool) {
	c := newCursor(body)
	if c.next() != '{' {
		return 0, false
	}
	c.at++
	open = c.at
	for c.next() == '"' {
		key := c.quoted()
		if !c.colon() {
			return 0, false
		}
		c.next()
		from := c.at
		c.value()
		each(key, from, c.at)
	}
	if c.next() != '}' {
		return 0, false
	}
	c.at++
	return open, c.next() == 0 && c.at == len(c.text)
}

func (f *fields) member(key string, v []byte) {
	if text := f.text(key); text != nil {
		*text = v
		return
	}
	switch key {
	case "max_tokens", "max_completion_tokens", "max_output_tokens":
		f.limit = max(f.limit, whole(v))
	case "n", "best_of":
		f.answers = max(f.answers, whole(v))
	case "ignore_eos":
		f.exact = string(v) == "true"
	case "stream":
		f.streamed = string(v) == "true"
	}
}

// text returns where to keep the text of a key, or nil if it is not kept.
func (f *fields) text(key string) *[]byte {
	switch key {
	case "model":
		return &f.seed[0]
	case "lora_path", "adapter_id": // SGLang, TGI; vLLM selects an adapter by the model name
		return &f.seed[1]
	case "cache_salt":
		return &f.seed[2]
	case "reasoning_effort", "reasoning": // part of the system prompt with some models
		return &f.seed[3]
	case "chat_template":
		return &f.seed[4]
	case "tools":
		return &f.first[0]
	case "functions":
		return &f.first[1]
	case "documents":
		return &f.first[2]
	case "system":
		return &f.first[3]
	case "instructions":
		return &f.first[4]
	case "messages":
		return &f.messages
	case "prompt":
		return &f.prompt
	case "input":
		return &f.input
	}
	return nil
}

// whole parses a whole number of at least 0. It returns 0 for anything else.
func whole(v []byte) int64 {
	if len(v) > 9 {
		return 0
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		return 0
	}
	return max(n, 0)
}
