package meter

// key is a known key of JSON objects.
type key uint8

// The keys in usage come first, as indices of used.
const (
	prompt key = iota
	output
	cached
	cacheRead
	cacheWritten
	usageKeys // number of keys in usage

	otherKey
	usageKey   // the usage object
	wrapperKey // an object around usageKey
	choicesKey
	textKey // generated text
	nameKey // generated text inside choices
	kindKey
)

func keyOf(name string) key {
	switch name {
	case "prompt_tokens", "input_tokens":
		return prompt
	case "completion_tokens", "output_tokens":
		return output
	case "cached_tokens":
		return cached
	case "cache_read_input_tokens":
		return cacheRead
	case "cache_creation_input_tokens":
		return cacheWritten
	case "usage", "meta_info": // meta_info is SGLang's
		return usageKey
	case "response", "message": // of OpenAI's responses and Anthropic's messages
		return wrapperKey
	case "choices":
		return choicesKey
	case "content", "text", "delta", "reasoning_content", "reasoning", "thinking", "arguments",
		"partial_json", "refusal":
		return textKey
	case "name":
		return nameKey
	case "type":
		return kindKey
	}
	return otherKey
}
