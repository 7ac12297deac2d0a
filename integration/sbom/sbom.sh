#!/usr/bin/env bash
# sbom.sh: writes bin/irsa-sidecar.cdx.json, what is linked into the sidecar, with licences and sums, as CycloneDX.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
tool=${XDG_CACHE_HOME:-$HOME/.cache}/irsa-sidecar/sbom-$(cksum <go.mod | cut -d' ' -f1)/cyclonedx-gomod
bash ../gobuild.sh "$tool" github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod
cd ../..
mkdir -p bin
# No time and no serial number: the same sources give the same file.
CGO_ENABLED=0 "$tool" app -json -licenses -noserial -notimestamp -main cmd/irsa-sidecar -output bin/irsa-sidecar.cdx.json .
echo "bin/irsa-sidecar.cdx.json: $(grep -c '"bom-ref"' bin/irsa-sidecar.cdx.json) entries" >&2
