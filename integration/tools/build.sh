#!/usr/bin/env bash
# build.sh: makes sure that helm, kustomize and promtool are here, built through Go modules from the module beside this script, and prints the
# directory they are in, alone, on stdout; everything else goes to stderr. The first time takes 3 to 8 minutes on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The directory's name carries the pins: a new one builds anew, and two checkouts share the programs.
pins=$(cat go.mod build.sh | cksum | cut -d' ' -f1)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/irsa-sidecar/tools-$pins
# Helm's own builds are told for which Kubernetes they are.
stamp='-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=37'
for package in helm.sh/helm/v3/cmd/helm sigs.k8s.io/kustomize/kustomize/v5 github.com/prometheus/prometheus/cmd/promtool; do
  bash ../gobuild.sh "$bin/$(basename "${package%/v5}")" "$package" "$stamp"
done
echo "$bin"
