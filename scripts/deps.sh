#!/bin/sh
# Makes sure of what the tests need besides Go: redis-server, prometheus with promtool, haproxy, node with npm, chromium,
# a C compiler for the race detector, the official Socket.IO clients for JavaScript and Python, what our own client for
# JavaScript is tried with, what drives the browser, and what AsyncAPI says a document is. Installs with apt-get and npm
# what is missing; where it cannot, it says what to install and fails.
set -eu

min_node=20
policy=/usr/sbin/policy-rc.d
root=$(dirname "$0")/..

have() { command -v "$1" >/dev/null 2>&1; }

have_chromium() { have chromium || have chromium-browser || have google-chrome; }

# Only root has Debian's place for it in PATH.
have_haproxy() { have haproxy || [ -x /usr/sbin/haproxy ]; }

have_node() {
	have node && [ "$(node -p 'process.versions.node.split(".")[0]')" -ge "$min_node" ]
}

# A compiler without the C library's headers is no use, and Debian packages them apart.
have_cc() { have gcc && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1; }

# The sync client needs requests for polling, and websocket for the other transport. Debian's packages are for its own
# Python, which need not be the first in PATH.
have_python_client() {
	for python in python3 /usr/bin/python3; do
		"$python" -c 'import socketio, requests, websocket' 2>/dev/null && return
	done
	return 1
}

# missing prints the Debian packages for whatever is not there, in one line.
missing() {
	have redis-server || printf 'redis-server '
	have_haproxy || printf 'haproxy '
	have_node || printf 'nodejs '
	have npm || printf 'npm '
	have_chromium || printf 'chromium '
	have promtool || printf 'prometheus '
	have_cc || printf 'gcc libc6-dev '
	have_python_client || printf 'python3-socketio python3-requests python3-websocket '
}

# give_up ends the script with a reason ($1) and what to do about it.
give_up() {
	echo "deps: the tests need: $(missing)" >&2
	echo "deps: $1" >&2
	echo "deps: as root on Debian: apt-get install $(missing)" >&2
	echo "deps: elsewhere: Redis, Prometheus with promtool, HAProxy, Node.js $min_node or later with npm, Chromium," >&2
	echo "deps: gcc with the C library's headers, and Python 3 with python-socketio, requests and websocket-client" >&2
	exit 1
}

# Debian starts a service when it is installed: the tests start their own Redis, and need no Prometheus. A policy that is there already
# is the machine's own (container images forbid services by one) and stays.
forbid_services() {
	[ ! -e "$policy" ] || return 0
	trap 'rm -f "$policy"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
}

# install_packages installs its arguments. apt-get reads no answers: stdin may be closed, and nobody may be there.
install_packages() {
	export DEBIAN_FRONTEND=noninteractive
	echo "deps: installing $*"
	forbid_services || return 1
	apt-get update -qq </dev/null || echo "deps: apt-get update failed, trying with the lists as they are" >&2
	apt-get install -qq -y --no-install-recommends "$@" </dev/null
}

packages_are_there() {
	packages=$(missing)
	[ -n "$packages" ] || return 0
	have apt-get || give_up "there is no apt-get here"
	[ "$(id -u)" = 0 ] || give_up "only root can install them"
	# Unquoted on purpose: one word for each package.
	install_packages $packages || give_up "apt-get failed"
	[ -z "$(missing)" ] || give_up "apt-get has installed what it has, and that is missing or too old"
}

# modules_are_there makes sure of what a folder's ($1) lock file names. Its copy says what is installed: once it is, no
# network is needed.
modules_are_there() {
	lock=package-lock.json
	! cmp -s "$1/$lock" "$1/node_modules/$lock" || return 0
	echo "deps: installing what $1/$lock names"
	npm --prefix "$1" ci --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null &&
		cp "$1/$lock" "$1/node_modules/$lock"
}

packages_are_there
for folder in test/e2e/clients test/browser sdk/js; do
	modules_are_there "$root/$folder" || {
		echo "deps: npm could not install what $folder needs" >&2
		exit 1
	}
done
