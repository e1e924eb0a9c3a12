#!/bin/sh
# Makes contexts of the nats tool for the users operator, observer and sys, then runs its arguments.
# The operator's is selected: `nats stream report`; the others by --context observer, --context sys.
set -eu
servers=nats://nats-1:4222,nats://nats-2:4222,nats://nats-3:4222
for user in observer sys operator; do
	nats context save "$user" --server "$servers" --user "$user" \
		--password "$(cat "/run/secrets/nats_${user}_password")" --inbox-prefix "_INBOX_$user" --select >/dev/null
done
exec "$@"
