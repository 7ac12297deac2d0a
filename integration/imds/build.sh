#!/usr/bin/env bash
# build.sh: makes sure that AWS's own mock of the EC2 instance metadata service is here, built through Go modules from the module in
# mock/, and prints its path, alone, on stdout; everything else goes to stderr. The first time takes half a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/mock"

# The name carries the version, so that a new pin in go.mod is built again and two checkouts share one program.
module=github.com/aws/amazon-ec2-metadata-mock
mock=${XDG_CACHE_HOME:-$HOME/.cache}/irsa-sidecar/ec2-metadata-mock-$(go list -m -f '{{.Version}}' $module)
bash ../../gobuild.sh "$mock" $module/cmd/ec2-metadata-mock
echo "$mock"
