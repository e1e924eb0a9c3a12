#!/bin/sh
# Starts one of the nats-servers of docker-compose.yml: nats-start.sh NAME NAME-OF-ANY…
# The passwords of nats.conf stand in files. nats-server reads them from its environment, and those of routes from
# their URLs, for which a file is written in memory.
set -eu

for user in bridge router operator observer sys route; do
	password=$(cat "/run/secrets/nats_${user}_password")
	export "$(echo "$user" | tr '[:lower:]' '[:upper:]')_PASSWORD=$password"
done
export NATS_NAME="$1"
shift

umask 077
cp /etc/nats/nats.conf /etc/nats/nats-cluster.conf /run/nats/
{
	echo 'routes: ['
	for name in "$@"; do echo "  nats://route:$ROUTE_PASSWORD@$name:6222"; done
	echo ']'
} >/run/nats/routes.conf

exec nats-server -c /run/nats/nats-cluster.conf
