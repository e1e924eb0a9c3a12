package load

import "testing"

func TestAMarkerIsFoundInAnyFrame(t *testing.T) {
	m := newMarkers("run1")
	want := marker{conversation: 12, number: 345, sent: 1700000000123456789}
	text := string(m.append(nil, want))
	for _, frame := range []string{
		text,
		`{"event":"CHAT_MESSAGE","data":{"type":"CHAT_MSG","message":"` + text + `..."},"seq":7}`,
		`42["CHAT_MESSAGE",{"message":"` + text + `"},"7"]`,
	} {
		if got, ok := m.find([]byte(frame)); !ok || got != want {
			t.Errorf("%s: found %v %v", frame, got, ok)
		}
	}
}

func TestWhatIsNoMarkerOfThisRunIsNotFound(t *testing.T) {
	m := newMarkers("run1")
	other := string(newMarkers("run2").append(nil, marker{1, 2, 3}))
	for _, frame := range []string{
		"", `{"event":"live"}`, other, "telle-load:run1:", "telle-load:run1:1:2:3", "telle-load:run1:1::3;",
		"telle-load:run1:1:x:3;", "telle-load:run1:1:-2:3;", "telle-load:run1:1:99999999999999999999:3;",
	} {
		if got, ok := m.find([]byte(frame)); ok {
			t.Errorf("%q: found %v", frame, got)
		}
	}
}

func TestTheSequenceStandsAtTheEnd(t *testing.T) {
	for frame, want := range map[string]uint64{
		`{"event":"CHAT_MESSAGE","data":{"n":5},"seq":1235}`: 1235,
		`42["CHAT_MESSAGE",{"n":5},"1235"]`:                  1235,
		`42["live",{}]`:                                      0,
		``:                                                   0,
	} {
		if got := sequenceOf([]byte(frame)); got != want {
			t.Errorf("%s: %d, want %d", frame, got, want)
		}
	}
}

func BenchmarkFind(b *testing.B) {
	m := newMarkers("run1")
	frame := []byte(`{"event":"CHAT_MESSAGE","data":{"type":"CHAT_MSG","dealerId":"load-run1","groupId":"g12","user":"bot",` +
		`"muted":false,"unread":0,"message":"` + string(m.append(nil, marker{12, 345, 1700000000123456789})) + `"},"seq":1235}`)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := m.find(frame); !ok || sequenceOf(frame) != 1235 {
			b.Fatal("not found")
		}
	}
}
