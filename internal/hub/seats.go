package hub

import "slices"

// seats are those of one session. Nearly every session has two of them, in its own
// conversation and in what is for the whole dealer: a list is smaller than a map then.
type seats struct {
	all       []*seat
	bySubject map[string]*seat // nil while there are few

	conversations int // of these: not what is for all chats of a dealer at once
}

// manySeats is from how many on they are looked up by a map.
const manySeats = 16

// of returns the seat in the topic of a subject, or nil.
func (s *seats) of(subject string) *seat {
	if s.bySubject != nil {
		return s.bySubject[subject]
	}
	for _, seat := range s.all {
		if seat.topic.subject == subject {
			return seat
		}
	}
	return nil
}

func (s *seats) add(one *seat) {
	if one.topic.chats != nil {
		s.conversations++
	}
	one.atSession = len(s.all)
	s.all = append(s.all, one)
	switch {
	case s.bySubject != nil:
		s.bySubject[one.topic.subject] = one
	case len(s.all) == manySeats:
		s.bySubject = map[string]*seat{}
		for _, each := range s.all {
			s.bySubject[each.topic.subject] = each
		}
	}
}

func (s *seats) remove(old *seat) {
	if old.topic.chats != nil {
		s.conversations--
	}
	last := s.all[len(s.all)-1]
	s.all[old.atSession], last.atSession = last, old.atSession
	s.all = slices.Delete(s.all, len(s.all)-1, len(s.all))
	delete(s.bySubject, old.topic.subject)
}
