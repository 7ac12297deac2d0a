#!/usr/bin/env bash
# build.sh: makes sure that the two foreign programs exist that the MinIO test needs: MinIO itself, built through Go
# modules from the module in server/, and the AWS CLI. Prints MinIO's path, alone, on stdout; everything else goes to stderr.
#
# MinIO (AGPLv3) is a tool of the tests: it is in no go.mod but the one in server/, and in nothing that is shipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/server"

# The name carries the version, so that a new pin in go.mod is built again and two checkouts share one binary.
version=$(go list -m -f '{{.Version}}' github.com/minio/minio)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/irsa-sidecar
minio=$cache/minio-$version

bash ../../gobuild.sh "$minio" github.com/minio/minio # 2 to 8 minutes the first time

# `aws` on PATH may be a stub of a version manager with nothing behind it: what counts is that it runs.
if ! aws --version >&2; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing the AWS CLI from the distribution" >&2
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends awscli; } >&2
    hash -r
    aws --version >&2 || { echo "the AWS CLI is installed, but the aws that comes first on PATH, $(command -v aws), does not run" >&2; exit 1; }
  else
    echo "no AWS CLI that runs: install it (Debian, Ubuntu: apt-get install awscli) and put \`aws\` on PATH" >&2
    exit 1
  fi
fi

echo "$minio"
