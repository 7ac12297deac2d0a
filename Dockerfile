# The sidecar's image: one static binary, the CA certificates and the licence. There is no shell and no package manager, so nothing else
# needs an update.
#
# The compiler runs on the builder's own platform and cross-compiles, so arm64 needs no emulation:
#   docker build --platform linux/arm64 --build-arg VERSION=v1.2.3 .
# `make image` also passes the commit and its time; see deploy/image.sh.

FROM --platform=$BUILDPLATFORM docker.io/library/golang:1.26 AS build
WORKDIR /src

# Modules are fetched again only if go.mod or go.sum has changed.
COPY go.mod go.sum ./
RUN go mod download

COPY . .
ARG VERSION=dev
ARG TARGETOS
ARG TARGETARCH
RUN --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /irsa-sidecar ./cmd/irsa-sidecar

# Others may run the program but not read it: if a process's user may not read the program, the kernel shows nothing of the process to
# other processes of that user, from the first instant. The group may read it, so that `irsa-sidecar install` can copy it, with
# runAsGroup: 49912. It is not group 0, which Kubernetes gives to a container with a runAsUser and no runAsGroup.
#
# Go reads a bundle and then every file in /etc/ssl/certs. The roots are where it looks only for a bundle, so that it parses them once.
# The image's whole file system is made here, so that it is one layer. Modes and times are fixed: the same sources and the same golang
# image give the same layer.
RUN install -D -m 0151 /irsa-sidecar /rootfs/irsa-sidecar && \
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /rootfs/etc/ssl/cert.pem && \
    install -D -m 0644 LICENSE /rootfs/licenses/LICENSE && \
    find /rootfs -exec touch -d @0 {} +


FROM scratch
COPY --from=build --chown=0:49912 /rootfs /

# A number, because the kubelet can check runAsNonRoot only for numbers, and there is no /etc/passwd. No common base image has it, so that
# nothing else in the Pod has the same user by chance. It is below 65536, for user namespaces.
USER 49911:49911

# The ops listener. The credentials listener, 9911, is on loopback and must not be published.
EXPOSE 9912

# For Docker and Podman. Kubernetes ignores it and has its own probes.
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
