#!/usr/bin/env bash
# image.sh: builds the image irsa-sidecar:<version> with docker, podman or buildah. `make image` runs it.
#
#   VERSION            default: git describe, else dev
#   IMAGE              default: irsa-sidecar:$VERSION
#   PLATFORM           linux/amd64 or linux/arm64; default: this machine's
#   BUILDER            docker, podman or buildah; default: the first that works
#   SOURCE_DATE_EPOCH  the image's creation time; default: the time of the commit, else 0
#
# Arguments are passed to the builder: deploy/image.sh --no-cache
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A docker command is not enough: its engine must run.
works() {
  case $1 in
    docker) docker version --format '{{.Server.Version}}' ;;
    *) command -v "$1" ;;
  esac >/dev/null 2>&1
}

builder=${BUILDER:-}
if [ -z "$builder" ]; then
  for candidate in docker podman buildah; do
    if works "$candidate"; then
      builder=$candidate
      break
    fi
  done
fi
if [ -z "$builder" ]; then
  echo "image.sh: found nothing that builds images: install docker and start its engine, or podman, or buildah" \
    "(Debian, Ubuntu: apt-get install buildah; Fedora: dnf install buildah)" >&2
  exit 1
fi

version=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}
revision=$(git rev-parse --verify --quiet HEAD 2>/dev/null || echo unknown)
image=${IMAGE:-irsa-sidecar:$version}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}

options=(--file Dockerfile --tag "$image" --build-arg "VERSION=$version" --build-arg "REVISION=$revision")
if [ -n "${PLATFORM:-}" ]; then
  options+=(--platform "$PLATFORM")
fi

echo "building $image with $builder" >&2
case $builder in
  docker)
    # BuildKit itself reads SOURCE_DATE_EPOCH.
    DOCKER_BUILDKIT=1 docker build "${options[@]}" --build-arg "SOURCE_DATE_EPOCH=$epoch" "$@" .
    ;;
  podman | buildah)
    # The OCI format has no HEALTHCHECK. Docker's format contains a random host name: the layer is the same in every build, the image's
    # ID only with `--format oci --layers=false`. buildah 1.28 (Debian 12) needs BUILDPLATFORM as an argument.
    arch=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
    "$builder" build --format docker --timestamp "$epoch" --build-arg "BUILDPLATFORM=linux/$arch" "${options[@]}" "$@" .
    ;;
  *)
    echo "image.sh: BUILDER is $builder: it must be docker, podman or buildah" >&2
    exit 2
    ;;
esac
