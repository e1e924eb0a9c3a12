#!/bin/sh
# Makes the secrets that docker-compose.yml reads, each once: what is there stays as it is. Nobody but the owner
# can enter the directory; in the containers programs that are not root read the files.
set -eu
dir=$(dirname "$0")/../deploy/secrets

# random prints a password that nats.conf takes for a word: letters and digits, a letter first.
random() { printf p; od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

mkdir -p "$dir/certificates"
chmod 700 "$dir"
for name in jwt_secret grafana_password redis_bridge_password redis_backend_password redis_health_password \
	nats_bridge_password nats_router_password nats_operator_password nats_observer_password nats_sys_password \
	nats_route_password; do
	[ -s "$dir/$name" ] && continue
	rm -f "$dir/$name.new"
	random >"$dir/$name.new"
	[ "$(wc -c <"$dir/$name.new")" -eq 49 ] || { echo "secrets: there is no randomness to be had" >&2; exit 1; }
	chmod 444 "$dir/$name.new"
	mv "$dir/$name.new" "$dir/$name"
	echo "secrets: made deploy/secrets/$name"
done
