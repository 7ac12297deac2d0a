#!/usr/bin/env bash
# install.sh COMMAND=PACKAGE…: makes sure that these commands are here, and installs the distribution's packages of those that are not.
# Says on stderr what it does, or what you would have to.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
packages=()
for pair in "$@"; do
  command -v "${pair%%=*}" >/dev/null || packages+=("${pair#*=}")
done
[ ${#packages[@]} = 0 ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "not installed: ${packages[*]} (Debian, Ubuntu: apt-get install ${packages[*]})" >&2
  exit 1
fi
echo "installing ${packages[*]} from the distribution" >&2
{ apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"; } >&2
