#!/bin/sh
# Replaces the containers of a service by such of the image and the configuration as they are now, one after the other:
# roll.sh router|bridge. A new one is ready before an old one is told to end, and that has drained before the next is.
set -eu
service=${1:?which service: router or bridge}

compose() {
	if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

old=$(compose ps --quiet "$service")
count=$(echo "$old" | wc -w)
[ "$count" -gt 0 ] || { echo "roll: no $service is running" >&2; exit 1; }

for container in $old; do
	compose up --detach --no-deps --no-recreate --wait --scale "$service=$((count + 1))" "$service"
	# Its own time to end counts: stop_grace_period.
	docker stop "$container" >/dev/null
	docker rm "$container" >/dev/null
	echo "roll: $service $container is replaced"
done
