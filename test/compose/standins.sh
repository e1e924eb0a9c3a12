#!/bin/sh
# Makes images under the names that docker-compose.yml gives, where no registry can be reached: standins.sh WORK.
# Each is Debian with its package of the same program, or with one built from its Go module; it has what the compose
# file uses of the real one, no more. What is there already, in DOCKER_HOST's engine or in the directory WORK, stays,
# unless it was made of something else.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
work=$1
image_of() { sed -n "s|^ *image: *\($1:[^ ]*\)\$|\1|p" "$here/../../docker-compose.yml" | head -n 1; }
golang=$(sed -n 's|^FROM \(golang:[^ ]*\) .*|\1|p' "$here/../../Dockerfile")

# have_image NAME MARK: is there an image, made of what MARK is the hash of?
have_image() { [ "$(docker image inspect --format '{{index .Config.Labels "standin"}}' "$1" 2>/dev/null)" = "$2" ]; }

mark_of() { cat "$@" | sha256sum | cut -c 1-16; }

packages=ca-certificates,git,wget,haproxy,redis-server,prometheus,sed,coreutils

say() { echo "standins: $*" >&2; }

# debian makes the image that all others are made from.
debian() {
	mark=$(echo "$packages" | mark_of)
	have_image telle-standin:base "$mark" && return
	say "a Debian from its packages"
	rm -rf "$work/base"
	debootstrap --variant=minbase --include="$packages" \
		"$(. /etc/os-release && echo "$VERSION_CODENAME")" "$work/base" >"$work/debootstrap.log" 2>&1 ||
		{ tail -n 5 "$work/debootstrap.log" >&2; return 1; }
	rm -rf "$work/base/var/cache/apt" "$work/base/var/lib/apt/lists" "$work/base/usr/share/doc"
	tar -C "$work/base" -c . | docker import --change "LABEL standin=$mark" - telle-standin:base >/dev/null
	rm -rf "$work/base"
}

# program builds a Go program into WORK/bin: program NAME VERSION MODULE PACKAGE. In a module of its own and not by go
# install, which asks for all versions there are: proxies may not list them.
program() {
	[ "$(cat "$work/bin/$1.version" 2>/dev/null)" = "$2" ] && return
	say "$1 $2 from its Go module"
	rm -rf "$work/module" && mkdir -p "$work/module"
	(cd "$work/module" && go mod init standin 2>/dev/null && go mod edit -require "$3@$2" &&
		CGO_ENABLED=0 GONOSUMDB='*' go build -mod=mod -trimpath -ldflags='-s -w' -o "$work/bin/$1" "$4")
	echo "$2" >"$work/bin/$1.version"
}

# standin makes an image, $1, of the Dockerfile on stdin; files that it copies are in WORK/bin.
standin() {
	have_image "$1" "$own" && return
	say "$1"
	{ echo 'FROM telle-standin:base'; echo "LABEL standin=$own"; cat; } >"$work/bin/Dockerfile"
	DOCKER_BUILDKIT=0 docker build -q -t "$1" "$work/bin" >/dev/null 2>&1
}

# version_of prints the version in an image's name.
version_of() { v=${1##*:}; echo "v${v%%-*}"; }

# golang is Go as it is here, and the modules that go.mod names, as a proxy of modules.
golang() {
	mark=$(mark_of "$0" "$here/../../go.sum")
	have_image "$golang" "$mark" && return
	say "$golang"
	rm -rf "$work/go" && mkdir -p "$work/go/proxy"
	cp -r "$(go env GOROOT)" "$work/go/goroot"
	cache=$(go env GOMODCACHE)/cache/download
	(cd "$here/../.." && go mod download && GOFLAGS=-modcacherw GOMODCACHE="$work/go/mod" GONOSUMDB='*' \
		GOPROXY="file://$cache" go mod download)
	cp -r "$work/go/mod/cache/download/." "$work/go/proxy"
	cat >"$work/go/Dockerfile" <<-END
		FROM telle-standin:base
		LABEL standin=$mark
		COPY goroot /usr/local/go
		COPY proxy /proxy
		ENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin GOPROXY=file:///proxy GOTOOLCHAIN=local GONOSUMDB=*
	END
	DOCKER_BUILDKIT=0 docker build -q -t "$golang" "$work/go" >/dev/null
	rm -rf "$work/go"
}

own=$(mark_of "$0")

mkdir -p "$work/bin"
debian
golang

nats=$(image_of nats) exporter=$(image_of natsio/prometheus-nats-exporter)
program nats-server "$(version_of "$nats")" github.com/nats-io/nats-server/v2 github.com/nats-io/nats-server/v2
program nats-top v0.6.3 github.com/nats-io/nats-top github.com/nats-io/nats-top
program prometheus-nats-exporter "$(version_of "$exporter")" \
	github.com/nats-io/prometheus-nats-exporter github.com/nats-io/prometheus-nats-exporter
program nats v0.5.0 github.com/nats-io/natscli github.com/nats-io/natscli/nats

# What is run as it is in the real image's start.
cat >"$work/bin/redis-entrypoint" <<'END'
#!/bin/sh
chown redis: . && exec setpriv --reuid redis --regid redis --clear-groups "$@"
END
chmod 755 "$work/bin/redis-entrypoint"

standin "$nats" <<'END'
COPY nats-server /usr/local/bin/
END
standin "$(image_of redis)" <<'END'
COPY redis-entrypoint /usr/local/bin/docker-entrypoint.sh
WORKDIR /data
END
standin "$(image_of haproxy)" <<'END'
USER haproxy
END
standin "$(image_of natsio/nats-box)" <<'END'
COPY nats nats-top /usr/local/bin/
END
standin "$exporter" <<'END'
COPY prometheus-nats-exporter /usr/local/bin/
ENTRYPOINT ["prometheus-nats-exporter"]
END
standin "$(image_of prom/prometheus)" <<'END'
RUN mkdir /prometheus && chown nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
END
