package load

import "testing"

func TestACheckerSeesWhatIsNotAsPromised(t *testing.T) {
	const sent = 5
	for _, tc := range []struct {
		name string
		got  []uint64
		want [foreign + 1]int // how often each finding
		lost uint64
	}{
		{"all in order", []uint64{1, 2, 3, 4, 5}, [4]int{5, 0, 0, 0}, 0},
		{"nothing", nil, [4]int{}, 5},
		{"the first is lost", []uint64{2, 3, 4, 5}, [4]int{4, 0, 0, 0}, 1},
		{"some in the middle are lost", []uint64{1, 4, 5}, [4]int{3, 0, 0, 0}, 2},
		{"the last is lost", []uint64{1, 2, 3, 4}, [4]int{4, 0, 0, 0}, 1},
		{"one is doubled at once", []uint64{1, 2, 2, 3, 4, 5}, [4]int{5, 0, 1, 0}, 0},
		{"one is doubled late", []uint64{1, 2, 3, 4, 5, 1}, [4]int{5, 0, 1, 0}, 0},
		{"two are swapped", []uint64{1, 3, 2, 4, 5}, [4]int{4, 1, 0, 0}, 0},
		{"one comes late, and again", []uint64{1, 3, 4, 2, 2, 5}, [4]int{4, 1, 1, 0}, 0},
		{"all the other way round", []uint64{5, 4, 3, 2, 1}, [4]int{1, 4, 0, 0}, 0},
		{"one was never published", []uint64{1, 2, 3, 4, 5, 6}, [4]int{5, 0, 0, 1}, 0},
		{"none has number 0", []uint64{0, 1, 2, 3, 4, 5}, [4]int{5, 0, 0, 1}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var c checker
			var found [foreign + 1]int
			for _, n := range tc.got {
				found[c.take(n, sent)]++
			}
			if found != tc.want || c.lacks(sent) != tc.lost {
				t.Errorf("found %v and %d lost, want %v and %d", found, c.lacks(sent), tc.want, tc.lost)
			}
		})
	}
}

// A socket that comes back has caught up as soon as it has what was missed, whatever
// is missing of what came later.
func TestACheckerKnowsWhatIsMissingUpToANumber(t *testing.T) {
	var c checker
	for _, n := range []uint64{1, 2, 4, 7} {
		c.take(n, 9)
	}
	for upTo, want := range []uint64{0, 0, 0, 1, 1, 2, 3, 3, 4, 5} {
		if got := c.lacks(uint64(upTo)); got != want {
			t.Errorf("up to %d it lacks %d, want %d", upTo, got, want)
		}
	}
}
