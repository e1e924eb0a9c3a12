package hub

import (
	"math"
	"testing"
)

func TestEachReasonHasItsOwnWordAndCode(t *testing.T) {
	words, codes := map[string]bool{}, map[int]bool{}
	for r := range reasons {
		if r.String() == "" || words[r.String()] || codes[r.Code()] {
			t.Errorf("reason %d has the word %q and the code %d: none, or another one's", r, r, r.Code())
		}
		words[r.String()], codes[r.Code()] = true, true
	}
}

// What clients decide on must not change.
func TestCloseCodesAreThoseOfTheProtocol(t *testing.T) {
	for r, want := range map[Reason]int{
		Gone: 1000, Drained: 1012, Unavailable: 1013,
		BadFrame: 4400, Unauthorized: 4401, Forbidden: 4403, PingTimeout: 4408, Slow: 4409, Limit: 4429, Kicked: 4410,
	} {
		if r.Code() != want {
			t.Errorf("%v has the code %d, want %d", r, r.Code(), want)
		}
	}
}

// A process of a later version may tell of any.
func TestAReasonThatIsNotKnownIsOneToComeBackAfter(t *testing.T) {
	for n := int(reasons); n <= math.MaxUint8; n++ {
		if r := Reason(n); r.Known() || r.String() != "unknown" || r.Code() != Unavailable.Code() {
			t.Errorf("reason %d: known %v, %q, %d", n, r.Known(), r, r.Code())
		}
	}
	if Reason(0).Known() || !Gone.Known() || !Kicked.Known() {
		t.Error("the reasons are not those that are known")
	}
}

// Processes of other versions read them.
func TestNumbersOfReasonsDoNotChange(t *testing.T) {
	for n, r := range []Reason{1: Gone, Drained, BadFrame, Unauthorized, Forbidden, Limit, PingTimeout, Slow, Unavailable, Kicked} {
		if int(r) != n {
			t.Errorf("%v has the number %d, want %d", r, r, n)
		}
	}
}
