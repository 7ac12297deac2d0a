# The sidecar's image: one static binary, the CA certificates and the licence, on nothing. There is no shell and no package manager,
# so nothing in it needs an update but these.
#
# The compiler runs on the builder's own platform and cross-compiles, so arm64 needs no emulation:
#   docker build --platform linux/arm64 --build-arg VERSION=v1.2.3 .
# `make image` also passes the commit and its time; see deploy/image.sh.

FROM --platform=$BUILDPLATFORM docker.io/library/golang:1.26 AS build
WORKDIR /src

# Only a change of go.mod or go.sum fetches modules again.
COPY go.mod go.sum ./
RUN go mod download

COPY . .
ARG VERSION=dev
ARG TARGETOS
ARG TARGETARCH
RUN --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /irsa-sidecar ./cmd/irsa-sidecar

# The program is for others to run and not to read: of a process whose user may not read the program, the kernel shows nothing to other
# processes of that user, from the exec on. Its group may read it: `irsa-sidecar install` copies it, with runAsGroup: 49912. It is not
# group 0, which Kubernetes gives to a container that has a runAsUser and no runAsGroup.
#
# Go reads a bundle and then every file in /etc/ssl/certs: the roots stand where it looks for a bundle only, and are parsed once.
# The whole file system of the image, so that it is one layer. Fixed modes and times: the same sources and the same golang image give
# the same layer.
RUN install -D -m 0151 /irsa-sidecar /rootfs/irsa-sidecar && \
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/cert.pem && \
    install -D -m 0644 LICENSE /rootfs/licenses/LICENSE && \
    find /rootfs -exec touch -d @0 {} +


FROM scratch
COPY --from=build --chown=0:49912 /rootfs /

# A number, not a name: runAsNonRoot can only be checked by number, and there is no /etc/passwd. One that no common base image has, so that
# nothing else in the Pod runs as it by chance; below 65536, for user namespaces.
USER 49911:49911

# The ops listener. The credentials listener, 9911, is on loopback and never to be published.
EXPOSE 9912

# For Docker and Podman; Kubernetes ignores it and has probes of its own.
HEALTHCHECK --interval=30s --timeout=5s --start-period=15s --retries=3 CMD ["/irsa-sidecar", "healthcheck"]

ENTRYPOINT ["/irsa-sidecar"]

ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="irsa-sidecar" \
      org.opencontainers.image.description="Serves AWS credentials for a Kubernetes service account on localhost" \
      org.opencontainers.image.source="https://github.com/irsa-sidecar/irsa-sidecar" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
