.DEFAULT_GOAL := help
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
export CGO_ENABLED ?= 0

# go test prints nothing for tests that pass, unless GOTESTFLAGS=-v; CI needs everything.
GOTESTFLAGS ?=

# The tags of tests that any system can compile; no file is only for builds without one.
TAGS := browser clients minio tools

.PHONY: help build test integration cluster demo image bench bench-check readme manifests fleet fuzz soak lint sbom

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build bin/irsa-sidecar, bin/irsa-sidecar-inject and bin/kubectl-irsa
	go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/irsa-sidecar ./cmd/irsa-sidecar-inject ./cmd/kubectl-irsa

test: ## Vet, and run all tests that need only Go; with the race detector if there is a C compiler
ifneq ($(shell command -v "$$(go env CC)"),) # both commands have the same flags, so that packages are compiled once for both
	CGO_ENABLED=1 go vet -race -tags '$(TAGS) cluster faults' ./...
	CGO_ENABLED=1 go test -race -vet=off $(GOTESTFLAGS) ./...
else
	@echo "make: no C compiler here, so the tests run without the race detector" >&2
	go vet -tags '$(TAGS) cluster faults' ./...
	go test -vet=off $(GOTESTFLAGS) ./...
endif

integration: ## Real SDKs and tools, MinIO, moto, Helm, kustomize, promtool, shells, Chromium, and faults, some at random; CLIENT=botocore for one client
ifeq ($(CLIENT),)
	minio=$$(bash integration/minio/build.sh) && \
	IRSA_TEST_MINIO=$$minio go test -tags minio -count=1 -timeout 5m -v ./integration/minio
	tools=$$(bash integration/tools/build.sh) && PATH="$$tools:$$PATH" go test -tags tools -count=1 $(GOTESTFLAGS) ./integration/manifests
	bash integration/install.sh dash=dash bash=bash zsh=zsh fish=fish || :; go test -count=1 $(GOTESTFLAGS) -run Shells ./cmd/irsa-sidecar && go test -tags clients -count=1 $(GOTESTFLAGS) ./integration/commands
	go test -tags clients -count=1 $(GOTESTFLAGS) ./integration/moto
	mock=$$(bash integration/imds/build.sh) && \
	IRSA_TEST_EC2_MOCK=$$mock go test -tags clients -count=1 $(GOTESTFLAGS) ./integration/imds
	bash integration/install.sh ip=iproute2 || :; go test -tags faults -count=1 -v -timeout 15m ./integration/faults
	go test -tags faults -count=1 -v -timeout 20m ./integration/campaign
	bash integration/install.sh chromium=chromium && go test -tags browser -count=1 $(GOTESTFLAGS) ./integration/browser
endif
	minio=$$(bash integration/minio/build.sh) && \
	IRSA_TEST_MINIO=$$minio IRSA_TEST_CLIENT="$$CLIENT" go test -tags clients -count=1 $(GOTESTFLAGS) -timeout 15m -parallel 4 ./integration/clients

cluster: ## The Pod's life on a one-node Kubernetes, built through Go modules, as root; KEEP=1 keeps it running until Ctrl-C
	kubernetes=$$(bash integration/cluster/build.sh) && tools=$$(bash integration/tools/build.sh) && \
	IRSA_TEST_KUBERNETES=$$kubernetes PATH="$$tools:$$PATH" go test -tags tools -count=1 $(GOTESTFLAGS) ./integration/manifests && \
	IRSA_TEST_KUBERNETES=$$kubernetes IRSA_TEST_KEEP=$(KEEP) PATH="$$tools:$$PATH" \
		go test -tags cluster -count=1 -timeout 30m -v ./integration/cluster

demo: ## The main path on this machine, with its own STS, until Ctrl-C; PORT=9921 sets the port; BREAK=wrong-audience breaks it
	@mkdir -p bin && go build -o bin/demo ./integration/demo # go run would report Ctrl-C as a failure
	@exec bin/demo $(if $(PORT),-listen 127.0.0.1:$(PORT)) $(if $(BREAK),-break $(BREAK))

image: ## Build the container image with docker, podman or buildah
	VERSION=$(VERSION) bash deploy/image.sh

bench: ## Compare with a bare net/http server
	go run ./integration/bench

bench-check: ## Fail if speed, memory or size are worse than integration/bench/baseline.txt; UPDATE=1 writes it
	@mkdir -p bin && go build -o bin/bench ./integration/bench # go run has one exit code for every failure
	@bin/bench check $(if $(UPDATE),-update) integration/bench/baseline.txt

readme: ## Write the generated parts of README and docs
	go test ./cmd/irsa-sidecar ./cmd/kubectl-irsa -run README -update

manifests: ## Write deploy/ from deploy/templates
	go test ./deploy -run Manifests -update

lint: ## golangci-lint, go vet for macOS and Windows, and govulncheck if its database can be reached
	for os in darwin windows; do GOOS=$$os go vet -tags '$(TAGS)' ./... || exit 1; done
	bash integration/lint/run.sh

sbom: ## List what is linked into the sidecar in bin/irsa-sidecar.cdx.json, as CycloneDX
	bash integration/sbom/sbom.sh

soak: ## 660 random faults in about 40 minutes; IRSA_TEST_SEED=… repeats a run, IRSA_TEST_FAULTS=… sets the number
	IRSA_TEST_FAULTS=$${IRSA_TEST_FAULTS:-660} go test -tags faults -count=1 -v -timeout 90m ./integration/campaign

fuzz: ## Run every fuzz target for FUZZTIME (20s)
	@for target in $$(grep -rho '^func Fuzz[A-Za-z0-9]*' --include=*_test.go . | cut -d' ' -f2); do \
		dir=$$(dirname $$(grep -rl "^func $$target(" --include=*_test.go . | head -1)); \
		echo "$$target in $$dir"; go test -run '^$$' -fuzz "^$$target$$" -fuzztime $${FUZZTIME:-20s} $$dir || exit 1; \
	done

fleet: ## Simulate fleets of up to 100,000 sidecars, and write docs/fleet.md; about four minutes
	go test ./cache -run FleetDocument -fleet -v -timeout 30m
