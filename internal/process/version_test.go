package process

import "testing"

func TestAnyVersionBecomesASemanticOne(t *testing.T) {
	for version, want := range map[string]string{
		"dev":                      "0.0.0-dev",
		"":                         "0.0.0-dev",
		"v1.2.3":                   "1.2.3",
		"1.2.3":                    "1.2.3",
		"v1.2.3-rc.1":              "1.2.3-rc.1",
		"v1.2.3-4-gfba0198":        "1.2.3+4-gfba0198", // after 1.2.3, not before it
		"v1.2.3-4-gfba0198-dirty":  "1.2.3+4-gfba0198-dirty",
		"v1.2.3-dirty":             "1.2.3+dirty",
		"v1.2.3-rc.1-4-gfba0198":   "1.2.3-rc.1+4-gfba0198",
		"fba0198":                  "0.0.0-dev+fba0198",
		"0123456-dirty":            "0.0.0-dev+0123456-dirty",
		"test":                     "0.0.0-dev+test",
		"release/1.2 of today":     "0.0.0-dev+release-1-2-of-today",
		"v01.2.3":                  "0.0.0-dev+01-2-3",
		"v1.2.3+build.7":           "1.2.3+build.7",
		"v1.2.3+build.7-2-gabcdef": "0.0.0-dev+1-2-3-build-7-2-gabcdef",
	} {
		got := semver(version)
		if got != want {
			t.Errorf("%q becomes %q, want %q", version, got, want)
		}
		if !semantic.MatchString(got) {
			t.Errorf("%q is not semantic", got)
		}
	}
}
