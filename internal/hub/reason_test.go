package hub

import "testing"

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
		BadFrame: 4400, Unauthorized: 4401, Forbidden: 4403, PingTimeout: 4408, Slow: 4409, Limit: 4429,
	} {
		if r.Code() != want {
			t.Errorf("%v has the code %d, want %d", r, r.Code(), want)
		}
	}
}
