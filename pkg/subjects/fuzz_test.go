package subjects

import "testing"

func FuzzID(f *testing.F) {
	for _, c := range ids {
		f.Add(c.id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		token, err := EncodeID(id)
		if refused := id == "" || len(id) > MaxID; refused != (err != nil) {
			t.Fatalf("EncodeID of %d bytes: %v", len(id), err)
		}
		if err != nil {
			return
		}
		checkToken(t, token)
		if back, err := DecodeID(token); err != nil || back != id {
			t.Errorf("%q became %q, which became %q, %v", id, token, back, err)
		}
	})
}

func FuzzToken(f *testing.F) {
	for _, c := range ids {
		f.Add(c.token)
	}
	for _, token := range []string{"%41", "%2e", "%4", "%", ".", "*", ">", ""} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		id, err := DecodeID(token)
		if err != nil {
			return
		}
		if back, err := EncodeID(id); err != nil || back != token {
			t.Errorf("%q became %q, which became %q, %v", token, id, back, err)
		}
	})
}

func FuzzSubject(f *testing.F) {
	for _, c := range ids {
		f.Add(Chat + "." + c.token + "." + c.token)
	}
	for _, subject := range []string{"live.d", "chat", "chat.*.g", "chat.>", "*.d.g", "chat..", "chat.d.%41", ""} {
		f.Add(subject)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		prefix, c, err := Parse(subject)
		if err != nil {
			return
		}
		if err := c.Check(); err != nil {
			t.Errorf("Parse(%q) accepted ids of which Check says: %v", subject, err)
		}
		if back := c.Subject(prefix); back != subject {
			t.Errorf("%q became %+v, which became %q", subject, c, back)
		}
		if covered := matches(EveryGroup(prefix, c.Dealer), subject); covered != (c.Group != "") {
			t.Errorf("EveryGroup covers %q: %t", subject, covered)
		}
	})
}
