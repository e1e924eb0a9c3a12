package source

import (
	"fmt"
	"strings"
)

// isPattern reports whether a channel is subscribed to by PSUBSCRIBE.
func isPattern(channel string) bool { return strings.ContainsAny(channel, "*?[") }

// checkChannels refuses channels that share a name. Redis delivers a message once
// for each subscription that it matches, so every such event would be doubled. Out
// is what the bridge publishes on: a pattern may catch it, and then it is ignored.
func checkChannels(channels []string, out string) error {
	if len(channels) == 0 {
		return fmt.Errorf("--redis-channels names no channel")
	}
	pieces := make([][]piece, len(channels))
	for i, c := range channels {
		if c == "" {
			return fmt.Errorf("--redis-channels holds an empty name")
		}
		if c == out && !isPattern(c) {
			return fmt.Errorf("--redis-channels holds --redis-out's channel %q: the bridge would read what it writes", c)
		}
		pieces[i] = piecesOf(c)
		for j := range i {
			if overlap(pieces[j], pieces[i]) {
				return fmt.Errorf("--redis-channels: %q and %q overlap: a message that matches both would arrive twice",
					channels[j], c)
			}
		}
	}
	return nil
}

// A piece of a channel or pattern matches one byte of a set or, if it is a run,
// any number of any bytes.
type piece struct {
	run bool
	set byteSet
}

type byteSet [4]uint64

func (s *byteSet) add(b byte) { s[b/64] |= 1 << (b % 64) }

func (s *byteSet) addRange(from, to byte) {
	for b := int(min(from, to)); b <= int(max(from, to)); b++ {
		s.add(byte(b))
	}
}

func (s *byteSet) negate() {
	for i := range s {
		s[i] = ^s[i]
	}
}

func (s *byteSet) meets(o byteSet) bool {
	for i := range s {
		if s[i]&o[i] != 0 {
			return true
		}
	}
	return false
}

// piecesOf takes a channel apart, by Redis's rules if it is a pattern.
func piecesOf(channel string) []piece {
	var pieces []piece
	pattern := isPattern(channel)
	for rest := channel; rest != ""; {
		var p piece
		switch {
		case pattern && rest[0] == '*':
			p.run, rest = true, rest[1:]
		case pattern && rest[0] == '?':
			p.set.negate()
			rest = rest[1:]
		case pattern && rest[0] == '[':
			p.set, rest = class(rest[1:])
		case pattern && rest[0] == '\\' && len(rest) > 1:
			p.set.add(rest[1])
			rest = rest[2:]
		default:
			p.set.add(rest[0])
			rest = rest[1:]
		}
		pieces = append(pieces, p)
	}
	return pieces
}

// class reads what follows a '[' and returns what follows the ']'. A class that
// is not closed goes to the end of the pattern.
func class(pattern string) (set byteSet, rest string) {
	rest, not := strings.CutPrefix(pattern, "^")
	for rest != "" && rest[0] != ']' {
		switch {
		case rest[0] == '\\' && len(rest) > 1:
			set.add(rest[1])
			rest = rest[2:]
		case len(rest) > 2 && rest[1] == '-':
			set.addRange(rest[0], rest[2])
			rest = rest[3:]
		default:
			set.add(rest[0])
			rest = rest[1:]
		}
	}
	if not {
		set.negate()
	}
	return set, strings.TrimPrefix(rest, "]")
}

// overlap reports whether some name matches both.
func overlap(a, b []piece) bool {
	// common[i][j]: some text matches both a[i:] and b[j:]. Filled from the end.
	common := make([][]bool, len(a)+1)
	for i := len(a); i >= 0; i-- {
		common[i] = make([]bool, len(b)+1)
		for j := len(b); j >= 0; j-- {
			moreA, moreB := i < len(a), j < len(b)
			switch {
			case moreA && a[i].run: // ends here, or takes what b wants next
				common[i][j] = common[i+1][j] || moreB && common[i][j+1]
			case moreB && b[j].run:
				common[i][j] = common[i][j+1] || moreA && common[i+1][j]
			case moreA && moreB:
				common[i][j] = common[i+1][j+1] && a[i].set.meets(b[j].set)
			default:
				common[i][j] = !moreA && !moreB
			}
		}
	}
	return common[0][0]
}
