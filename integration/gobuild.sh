#!/usr/bin/env bash
# gobuild.sh FILE PACKAGE [LDFLAGS]: builds a program of another project, from the module in the current directory, unless the file is there.
set -euo pipefail
file=$1 package=$2
[ -x "$file" ] && exit
echo "building $(basename "$file") through Go modules ($(date +%T))" >&2
mkdir -p "$(dirname "$file")"
# Two builds at once, or one that is interrupted, must not leave half a program under the final name.
part=$(mktemp "$(dirname "$file")/building.XXXXXX")
trap 'rm -f "$part"' EXIT
CGO_ENABLED=0 nice go build -mod=readonly -p 2 -trimpath -ldflags="-s -w ${3:-}" -o "$part" "$package" >&2
chmod 0755 "$part"
mv "$part" "$file"
