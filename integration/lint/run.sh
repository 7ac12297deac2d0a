#!/usr/bin/env bash
# run.sh: golangci-lint, by .golangci.yml, and govulncheck; both built through Go modules from the module beside this script, and kept in the
# user's cache directory. The first time takes 2 to 4 minutes on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
bin=${XDG_CACHE_HOME:-$HOME/.cache}/irsa-sidecar/lint-$(cksum <go.mod | cut -d' ' -f1)
for package in github.com/golangci/golangci-lint/v2/cmd/golangci-lint golang.org/x/vuln/cmd/govulncheck; do
  bash ../gobuild.sh "$bin/$(basename "$package")" "$package"
done
cd ../..
"$bin/golangci-lint" run ./...

# Without its database it can say nothing; and nothing is not "no vulnerabilities".
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "$bin/govulncheck" ./cmd/... >"$log" 2>&1; then
  cat "$log"
elif grep -q 'fetching vulnerabilities\|no such host\|dial tcp\|Client.Timeout' "$log"; then
  echo "govulncheck is NOT RUN: its database cannot be reached from here" >&2
else
  cat "$log" >&2
  exit 1
fi
