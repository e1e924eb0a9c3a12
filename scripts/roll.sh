#!/bin/sh
# Replaces the containers of a service by such of the image and the configuration as they are now, one after the other:
# roll.sh router|bridge. A new one is ready before an old one is told to end, and that has drained before the next is.
# If a new one does not get ready within ROLL_TIMEOUT seconds (120) it is removed, and the rest stays as it is: what
# is not replaced yet runs on. It can be started again at any time, also when it was broken off.
set -eu
cd "$(dirname "$0")/.."
service=${1:?which service: router or bridge}
timeout=${ROLL_TIMEOUT:-120}
before= # the containers that there were, while another one is not ready yet

if docker compose version >/dev/null 2>&1; then
	compose() { docker compose "$@"; }
else
	compose() { docker-compose "$@"; }
fi

running() { compose ps --quiet --status running "$service"; }

# remove_ended removes what an earlier run has stopped and not removed: compose would start it again as a new one.
remove_ended() {
	compose ps --quiet --all --status exited --status dead --status created "$service" | xargs -r docker rm >/dev/null
}

# added prints the container that there is besides those before.
added() {
	for id in $(compose ps --quiet --all "$service"); do
		case $before in *"$id"*) ;; *) echo "$id" ;; esac
	done
}

# give_up takes back a container that is not ready.
give_up() {
	[ -z "$before" ] || added | xargs -r docker rm --force >/dev/null
}
trap give_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# another starts one container more than there are, and waits until it is ready.
another() {
	before=$(running)
	compose up --detach --no-deps --no-recreate --scale "$service=$(($(echo "$before" | wc -w) + 1))" "$service"
	new=$(added)
	[ -n "$new" ] || { echo "roll: compose has started no $service" >&2; exit 1; }
	waited=0
	until [ "$(docker inspect --format '{{.State.Health.Status}}' "$new")" = healthy ]; do
		if [ "$waited" -ge "$timeout" ]; then
			docker logs --tail 20 "$new" >&2
			echo "roll: the new $service is not ready after $timeout s: removed, nothing else is changed" >&2
			exit 1
		fi
		sleep 1
		waited=$((waited + 1))
	done
	before=
}

remove_ended
old=$(running)
[ -n "$old" ] || { echo "roll: no $service is running" >&2; exit 1; }
for container in $old; do
	another
	# Its own time to end counts: stop_grace_period.
	docker stop "$container" >/dev/null
	docker rm "$container" >/dev/null
	echo "roll: $service $container is replaced"
done
