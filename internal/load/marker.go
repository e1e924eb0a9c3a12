package load

import (
	"bytes"
	"strconv"
)

// markerBegin is what all markers begin with, those of other runs, too:
//
//	telle-load:<run>:<conversation>:<number>:<sent, ns since 1970>;
const markerBegin = "telle-load:"

// A marker is what an event carries in its message.
type marker struct {
	conversation uint64
	number       uint64 // in its conversation, from 1
	sent         int64
}

// markers reads and writes the markers of one run.
type markers struct {
	begin []byte // with the run
}

func newMarkers(run string) markers { return markers{begin: []byte(markerBegin + run + ":")} }

func (m markers) append(dst []byte, mark marker) []byte {
	dst = append(dst, m.begin...)
	dst = strconv.AppendUint(dst, mark.conversation, 10)
	dst = append(dst, ':')
	dst = strconv.AppendUint(dst, mark.number, 10)
	dst = append(dst, ':')
	dst = strconv.AppendInt(dst, mark.sent, 10)
	return append(dst, ';')
}

// find finds the marker in a frame by its bytes: to decode the JSON of each frame
// would cost more than all else that is done with it.
func (m markers) find(frame []byte) (mark marker, ok bool) {
	i := bytes.Index(frame, m.begin)
	if i < 0 {
		return marker{}, false
	}
	rest := frame[i+len(m.begin):]
	var numbers [3]uint64
	for i, end := range [3]byte{':', ':', ';'} {
		if numbers[i], rest, ok = cutNumber(rest, end); !ok {
			return marker{}, false
		}
	}
	return marker{conversation: numbers[0], number: numbers[1], sent: int64(numbers[2])}, true
}

// cutNumber cuts off a number and what ends it.
func cutNumber(b []byte, end byte) (n uint64, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == end && i > 0:
			return n, b[i+1:], true
		case c < '0' || c > '9' || i > 18:
			return 0, nil, false
		}
		n = n*10 + uint64(c-'0')
	}
	return 0, nil, false
}

// sequenceOf returns the sequence at the end of an event, and 0 if there is none:
//
//	{"event":…,"seq":1235}   42[…,"1235"]
func sequenceOf(frame []byte) (seq uint64) {
	frame = bytes.TrimRight(frame, `}"]`)
	begin := len(frame)
	for begin > 0 && frame[begin-1] >= '0' && frame[begin-1] <= '9' {
		begin--
	}
	for _, c := range frame[begin:] {
		seq = seq*10 + uint64(c-'0')
	}
	return seq
}
