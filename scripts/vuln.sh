#!/bin/sh
# Looks for known vulnerabilities that our code reaches, in what it imports and in Go itself. Fails if there are any.
#
# govulncheck is installed aside, not as a tool of go.mod: ours would be raised to the modules that it needs. Its
# database is vuln.go.dev. Where that cannot be reached, the reports are taken from the module that they are published
# in, which comes by the module proxy as any other, and may be some weeks old.
set -eu
cd "$(dirname "$0")/.."

tool=golang.org/x/vuln/cmd/govulncheck@v1.9.0
reports=golang.org/x/vulndb@latest
found=3 # govulncheck's exit code

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

check() { "$tmp/govulncheck" "$@" ./...; }

# field name: the text of a field of what go mod download says
field() { sed -n "s/^.*\"$1\": \"\(.*\)\".*/\1/p" "$tmp/reports.json"; }

# age yyyymmdd: in words; a date that does not reckon is of no other use here
age() {
	then=$(date -u -d "$1" +%s 2>/dev/null) || return 0
	echo ", $((($(date -u +%s) - then) / 86400)) days old"
}

GOBIN=$tmp go install "$tool"
code=0
check 2>"$tmp/errors" || code=$?
cat "$tmp/errors" >&2
if [ "$code" -eq 0 ] || [ "$code" -eq "$found" ] || ! grep -q 'fetching vulnerabilities' "$tmp/errors"; then
	exit "$code"
fi

echo "vuln.go.dev cannot be reached: taking $reports from the module proxy instead" >&2
if ! go mod download -json "$reports" >"$tmp/reports.json"; then
	cat "$tmp/reports.json" >&2
	echo "that cannot be reached either: nothing was checked" >&2
	exit 1
fi
day=$(field Version | sed -n 's/^.*-\([0-9]\{8\}\)[0-9]*-.*$/\1/p')
echo "the reports are of $day$(age "$day"): what has become known since is not looked for" >&2
check -db "file://$(field Dir)/data/osv"
