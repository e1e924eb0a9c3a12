#!/bin/sh
# Measures how the routers' CPU grows with sockets, groups, events and routers, and prints a table in Markdown. Starts all
# that it needs on free ports of 127.0.0.1, and ends it. The rates leave a machine of two cores some room: what is
# measured on a full one is the scheduler. Takes about three minutes.
#
# For a first look: CURVES_SECONDS (8) is how long each row is measured, CURVES_PART (1) divides sockets, groups and rates.
set -eu

seconds=${CURVES_SECONDS:-8}
part=${CURVES_PART:-1}
dir=$(mktemp -d)
nats=
routers=
load=
clean=true

# end ends processes by their ids, and waits for them.
end() {
	for pid in "$@"; do
		kill "$pid" 2>/dev/null || true # it may have ended by itself
	done
	for pid in "$@"; do
		wait "$pid" 2>/dev/null || true # with whatever code
	done
}

finish() {
	trap '' INT TERM
	# shellcheck disable=SC2086 # several ids
	end $load $routers $nats
	rm -rf "$dir"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# await waits until a command prints something, and prints it.
await() {
	tries=0
	until found=$("$@" 2>/dev/null) && [ -n "$found" ]; do
		tries=$((tries + 1))
		if [ "$tries" -gt 200 ]; then
			echo "in vain: $*" >&2
			return 1
		fi
		sleep 0.05
	done
	echo "$found"
}

# said prints the first value of a text field in a file of JSON.
said() { sed -n "s/.*\"$1\": *\[*\"\([^\"]*\)\".*/\1/p" "$2" | head -n 1; }

start_nats() {
	"$dir/nats-server" -a 127.0.0.1 -p -1 -js -sd "$dir/store" --ports_file_dir "$dir" >"$dir/nats.log" 2>&1 &
	nats=$!
	nats_url=$(await said nats "$dir/nats-server_$nats.ports")
}

# start_routers starts so many, and sets urls and metrics to where they are.
start_routers() {
	urls='' metrics='' i=0
	while [ "$i" -lt "$1" ]; do
		log=$dir/router-$i.log
		: >"$log"
		"$dir/router" --nats-url "$nats_url" --auth none --listen 127.0.0.1:0 --internal 127.0.0.1:0 --drain-time 0s \
			--stream-max-bytes 268435456 >"$log" 2>&1 &
		routers="$routers $!"
		urls=$urls,ws://$(await said public "$log")
		metrics=$metrics,http://$(await said internal "$log")
		i=$((i + 1))
	done
	urls=${urls#,} metrics=${metrics#,}
}

# let_in waits until each router lets sockets in.
let_in() {
	old_ifs=$IFS
	IFS=,
	for url in $urls; do
		IFS=$old_ifs
		tries=0
		until "$dir/telle" load connect --sockets 1 --groups 1 --url "$url" --quiet >/dev/null 2>&1; do
			tries=$((tries + 1))
			[ "$tries" -lt 100 ] || { echo "$url lets nobody in" >&2; return 1; }
			sleep 0.1
		done
	done
	IFS=$old_ifs
}

# row <curve> <routers> <of these, without sockets> <scenario> <sockets> <groups> <events/s>
row() {
	curve=$1 scenario=$4 sockets=$(divided "$5") groups=$(divided "$6") rate=$(divided "$7")
	[ "$groups" -le "$sockets" ] || groups=$sockets
	start_routers "$2"
	let_in
	i=$3
	while [ "$i" -gt 0 ]; do
		urls=${urls%,*}
		i=$((i - 1))
	done
	"$dir/telle" load "$scenario" --json --quiet --url "$urls" --metrics "$metrics" --publish "$nats_url" --sockets "$sockets" \
		--groups "$groups" --rate "$rate" --warm 2s --duration "${seconds}s" >"$dir/report" 2>"$dir/problem" &
	load=$!
	wait "$load" || { # not in the foreground: a signal would wait for it
		clean=false
		cat "$dir/problem" >&2
	}
	load=
	print "$2"
	# shellcheck disable=SC2086 # several ids
	end $routers
	routers=
}

# divided leaves one at least.
divided() { echo $(($1 / part > 0 ? $1 / part : 1)); }

# print prints a row. That of processes is the report's last object with each in it.
print() {
	awk -v curve="$curve" -v routers="$1" -v sockets="$sockets" -v groups="$groups" '
	function number(text, name) {
		if (!match(text, "\"" name "\":[-+0-9.e]+")) return 0
		text = substr(text, RSTART, RLENGTH)
		sub(/.*:/, "", text)
		return text + 0
	}
	function after(text, what) { return substr(text, index(text, what)) }
	{
		published = after($0, "\"published\":")
		deliveries = after($0, "\"deliveries\":")
		all = after($0, "\"processes\":")
		seconds = number($0, "seconds")
		each = ""
		for (n = split(after(all, "\"each\":["), one, "{"); n > 1; n--)
			each = sprintf("%.1f", 100 * number(one[n], "cpuSeconds") / seconds) (each == "" ? "" : " + " each)
		for (n = split(each, one, " \\+ "); n > routers; n--) # what is behind the list
			sub(/ \+ [^+]*$/, "", each)
		printf "| %s | %d | %d | %d | %.0f | %.0f | %.1f | %s | %.1f | %.1f | %.0f | %s |\n", curve, routers, sockets, groups,
			number(published, "perSecond"), number(deliveries, "perSecond"), 100 * number(all, "cpuSeconds") / seconds, each,
			number(all, "cpuPerDeliveryUs"), number(deliveries, "p99"), 100 * number(after($0, "\"cpu\":"), "machine"),
			index($0, "\"clean\":true") ? "yes" : "no"
	}' "$dir/report"
}

cd "$(dirname "$0")/.."
CGO_ENABLED=0 go build -o "$dir/" ./cmd/router ./cmd/telle github.com/nats-io/nats-server/v2
start_nats

echo "| growing | routers | sockets | groups | events/s | deliveries/s | CPU of routers, % of a core | of each | µs per delivery | p99, ms | machine busy, % | clean |"
echo "|---|---|---|---|---|---|---|---|---|---|---|---|"
# Each time 10000 deliveries/s.
row sockets 1 0 fanout 100 1 100
row sockets 1 0 fanout 1000 1 10
row sockets 1 0 fanout 5000 1 2
row groups 1 0 groups 100 100 2000
row groups 1 0 groups 1000 1000 2000
row groups 1 0 groups 5000 5000 2000
row events 1 0 groups 1000 1000 1000
row events 1 0 groups 1000 1000 5000
row events 1 0 groups 1000 1000 10000
row routers 1 0 groups 1000 1000 2000
row routers 2 0 groups 1000 1000 2000
row routers 4 0 groups 1000 1000 2000
row "routers with their load" 2 0 groups 2000 2000 4000
row "routers with their load" 4 0 groups 4000 4000 8000
# What the last one costs, which holds no conversation.
row "a router without sockets" 2 1 groups 1000 1000 1000
row "a router without sockets" 2 1 groups 1000 1000 5000
$clean
