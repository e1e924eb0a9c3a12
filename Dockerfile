# Images of router, bridge and telle: `docker build --target router .`, or `docker compose build`.
# Each is one static program, and the certificates of public authorities; no shell, no package, no root.

FROM golang:1.26.8-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
# What is compiled here is compiled again only when code has changed, not a document or the version.
COPY cmd cmd
COPY internal internal
COPY pkg pkg
COPY sdk sdk
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -o /dev/null ./cmd/...
COPY . .
# Without VERSION it is what git says; without a repository of git, dev.
ARG VERSION
RUN set -eu; vcs=true; git rev-parse HEAD >/dev/null 2>&1 || vcs=false; \
    version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}; \
    CGO_ENABLED=0 go build -trimpath -buildvcs=$vcs -ldflags "-s -w -X main.version=$version" \
        -o /out/ ./cmd/router ./cmd/bridge ./cmd/telle

FROM scratch AS base
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
USER 65532:65532

# Healthy is what the process itself says of /healthz on its internal address. Whether it is ready is another
# question (healthcheck --ready): a process that has lost NATS is not mended by being killed.

FROM base AS router
COPY --from=build /out/router /router
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/router", "healthcheck"]
ENTRYPOINT ["/router"]

FROM base AS bridge
COPY --from=build /out/bridge /bridge
EXPOSE 8090 8091
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["/bridge", "healthcheck"]
ENTRYPOINT ["/bridge"]

FROM base AS telle
COPY --from=build /out/telle /telle
ENTRYPOINT ["/telle"]
