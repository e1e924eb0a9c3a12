package process

import (
	"regexp"
	"strings"
)

var (
	// semantic is what NATS's tools take for a version.
	semantic = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)(\.(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?$`)

	// sinceTag is what git describe says of commits after a tag, and of changes that are in
	// none. It is no sign of a version before the tag, as it would be behind a hyphen.
	sinceTag = regexp.MustCompile(`(-\d+-g[0-9a-f]+)?(-dirty)?$`)

	noBuild = regexp.MustCompile(`[^0-9a-zA-Z-]+`)
)

// semver makes a semantic version of the one that a program was built with: a tag, what git
// describe says, or whatever. What does not fit into one stands behind 0.0.0-dev.
func semver(version string) string {
	version = strings.TrimPrefix(version, "v")
	at := sinceTag.FindStringIndex(version)[0]
	tag, since := version[:at], strings.TrimPrefix(version[at:], "-")
	switch {
	case semantic.MatchString(tag) && since == "":
		return tag
	case semantic.MatchString(tag) && !strings.Contains(tag, "+"):
		return tag + "+" + since
	case version == "dev" || version == "":
		return "0.0.0-dev"
	}
	return "0.0.0-dev+" + noBuild.ReplaceAllString(version, "-")
}
