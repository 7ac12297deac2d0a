#!/usr/bin/env bash
# build.sh: makes sure that helm, promtool and several versions of kustomize are here, built through Go modules, and prints the directory they
# are in, alone, on stdout; everything else goes to stderr. The first time takes 5 to 12 minutes on two cores.
#
# helm, promtool and the newest kustomize are pinned by the module beside this script. Others have the version in their names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# kubectl brings a kustomize of its own: 1.32 brings 5.5.0, the oldest that docs/install.md names; 1.34 and 1.35 bring 5.7.1.
kustomizes='v5.5.0 v5.7.1'
kubectl=v0.32.3 # k8s.io/kubectl counts from v0: this is kubectl 1.32.3

# The directory's name carries the pins: a new one builds anew, and two checkouts share the programs.
pins=$(cat go.mod build.sh | cksum | cut -d' ' -f1)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/irsa-sidecar/tools-$pins
gobuild=$PWD/../gobuild.sh
# Helm's own builds are told for which Kubernetes they are.
stamp='-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37'
for package in helm.sh/helm/v3/cmd/helm sigs.k8s.io/kustomize/kustomize/v5 github.com/prometheus/prometheus/cmd/promtool; do
  bash "$gobuild" "$bin/$(basename "${package%/v5}")" "$package" "$stamp"
done

# A module has one version of a program, so each of these has a module of its own, with what its version requires.
modules=$(mktemp -d)
trap 'rm -rf "$modules"' EXIT
older() { # FILE PACKAGE VERSION
  [ -x "$1" ] && return
  local module=$modules/$(basename "$1")
  mkdir "$module"
  cd "$module"
  go mod init older 2>/dev/null
  go get "$2@$3" 2>&1 | sed '/^go: added /d' >&2
  local main=$2
  if [ "$2" = k8s.io/kubectl/pkg/cmd ]; then # kubectl's main package is in k8s.io/kubernetes, which is much more, and replaces what it requires
    main=.
    cat >main.go <<'EOF'
package main

import (
	"os"

	"k8s.io/kubectl/pkg/cmd"
)

func main() {
	if cmd.NewDefaultKubectlCommand().Execute() != nil {
		os.Exit(1)
	}
}
EOF
  fi
  bash "$gobuild" "$1" "$main"
}
for version in $kustomizes; do
  (older "$bin/kustomize-$version" sigs.k8s.io/kustomize/kustomize/v5 "$version")
done
(older "$bin/kubectl-v1${kubectl#v0}" k8s.io/kubectl/pkg/cmd "$kubectl")
echo "$bin"
