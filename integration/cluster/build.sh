#!/usr/bin/env bash
# build.sh: makes sure that everything is here which a one-node Kubernetes is made of, and prints the directory it is in, alone, on stdout:
# kube-apiserver, kube-controller-manager, kube-scheduler, kubelet and kubectl, built through Go modules from the module in kubernetes/.
# etcd, containerd, runc, the CNI plugins, and what the Pods run, are the distribution's. Everything else goes to stderr. The programs are kept
# in the user's cache directory; the first time takes 8 to 25 minutes on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/kubernetes"

# The names of the directory and so of the programs carry the version: a new pin in go.mod is built again.
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
bin=${XDG_CACHE_HOME:-$HOME/.cache}/irsa-sidecar/kubernetes-$version
bash ../../install.sh etcd=etcd-server containerd=containerd runc=runc ip=iproute2 /usr/lib/cni/bridge=containernetworking-plugins \
  /bin/busybox=busybox-static /usr/bin/aws=awscli >&2

# Kubernetes is told its version by the linker; without it, it takes itself for v0.0.0.
version_package=k8s.io/component-base/version
minor=${version#v1.}
stamp="-X $version_package.gitVersion=$version -X $version_package.gitMajor=1 -X $version_package.gitMinor=${minor%%.*} -X $version_package.gitTreeState=clean"
for program in kube-apiserver kubectl kube-controller-manager kube-scheduler kubelet; do
  bash ../../gobuild.sh "$bin/$program" "k8s.io/kubernetes/cmd/$program" "$stamp"
done
echo "$bin"
