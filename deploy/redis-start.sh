#!/bin/sh
# Starts the redis-server of docker-compose.yml, with the users of redis.conf and users.acl: their passwords stand in
# files, and only the hashes of them are written down, in memory.
set -eu

# hashed USER prints the hash of a user's password.
hashed() { printf %s "$(cat "/run/secrets/redis_$1_password")" | sha256sum | cut -d ' ' -f 1; }

for user in bridge backend health; do
	eval "$user=$(hashed "$user")"
done
# Redis reads it after it has given up being root.
sed "s/#PUT-THE-HASH-HERE/#$bridge/" /etc/redis/redis.conf >/run/redis/redis.conf
cat >>/run/redis/redis.conf <<END
# Other servers: they say what happens and hear what chatbots and admins say.
user backend on #$backend resetkeys resetchannels -@all +ping +hello +client|setname +select +subscribe +unsubscribe &telle:chatbot (+publish &telle:client-server) (+xadd ~telle:events)
user health on #$health resetkeys resetchannels -@all +ping
user default off
dir /data
# Full, it refuses what is added to the stream; nothing that is in it goes.
maxmemory 400mb
maxmemory-policy noeviction
appendonly yes
END
exec docker-entrypoint.sh redis-server /run/redis/redis.conf
