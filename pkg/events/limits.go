package events

// How deeply a message may be nested. A message with nothing but texts and numbers in
// it has one level.
const (
	UsualDepth = 64     // of what comes from outside, unless [Limits] say otherwise
	MostDepth  = 10_000 // of anything; encoding/json reads no deeper either
)

// Limits say how much of a message is taken from outside. What the stream holds already
// is read whatever they are: see [ParseStored].
type Limits struct {
	MaxDepth int // levels, up to [MostDepth]; 0: [UsualDepth]
}

func (l Limits) depth() int {
	if l.MaxDepth == 0 {
		return UsualDepth
	}
	return min(l.MaxDepth, MostDepth)
}

// Depth returns how deeply a JSON text is nested, at any depth, or what of it is JSON
// at least. A text or number by itself has no level. It is for what encoding/json does
// not read: it tells whether that is why.
func Depth(text []byte) (deepest int) {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '[', '{':
			depth++
			deepest = max(deepest, depth)
		case ']', '}':
			depth--
		case '"':
			if i = skipString(text, i); i == bad {
				return deepest
			}
			i--
		}
	}
	return deepest
}
