# Everything below works on a machine with Go, make and git; what else a target
# needs it says, or builds into a cache outside the repository.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO      ?= go
IMG      ?= ghcr.io/koi-net/koi-operator:$(VERSION)
NODE_IMG ?= ghcr.io/koi-net/koi-node:$(VERSION)
LDFLAGS := -s -w -X main.version=$(VERSION)
BUILD   := CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)"

CONTROLLER_GEN := $(GO) tool -modfile=hack/tools/go.mod controller-gen
GOLANGCI_LINT  := $(GO) tool -modfile=hack/tools/lint/go.mod golangci-lint

# Packages whose tests need nothing but Go.
UNIT_PACKAGES = $$($(GO) list ./... | grep -v -e '/controllers$$' -e '/hack/e2e' -e '/hack/interop$$')

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2} /^## / {printf "\n%s\n", substr($$0, 4)}' $(MAKEFILE_LIST)

## A KOI-net on Kubernetes

.PHONY: up
up: ## Bring up a KOI-net: cluster, operator, coordinator, sensor, reader (CLUSTER=local|kind|existing to choose)
	@$(GO) run ./hack/up up

.PHONY: down
down: ## Take down what 'make up' brought up
	@$(GO) run ./hack/up down

## Develop

.PHONY: build
build: ## Build koi-node, koi-operator and kubectl-koi into bin/
	$(BUILD) -o bin/ ./cmd/...

.PHONY: image
image: ## Build both images without a container engine, into dist/
	@$(GO) run ./hack/image

.PHONY: installer
installer: ## Write dist/install.yaml: namespace, CRDs, RBAC, operator (VERSION, or IMG and NODE_IMG)
	@$(GO) run ./hack/installer -operator '$(IMG)' -node '$(NODE_IMG)'

.PHONY: generate
generate: ## Generate deepcopy code
	$(CONTROLLER_GEN) object paths=./api/...

.PHONY: manifests
manifests: ## Generate CRDs and RBAC into config/, and the reference of their fields
	$(CONTROLLER_GEN) crd paths=./api/... output:crd:artifacts:config=config/crd/bases
	$(CONTROLLER_GEN) rbac:roleName=koi-operator paths=./controllers/... output:rbac:artifacts:config=config/rbac
	@$(GO) run ./hack/reference

.PHONY: charts
charts: ## Generate what the Helm charts take from config/, and the tables of their values
	@$(GO) run ./hack/charts

.PHONY: fmt
fmt: ## Format the code
	$(GO) fmt ./...

.PHONY: lint
lint: ## Run golangci-lint
	$(GOLANGCI_LINT) run ./...

.PHONY: verify
verify: ## Regenerate everything that is generated, and fail if that changes anything
	@hack/verify.sh

## Test

.PHONY: test
test: verify lint test-unit browser chaos-short fuzz-wire interop test-envtest e2e ## Run all tests: this is what CI runs

.PHONY: test-unit
test-unit: ## Test what needs nothing but Go, with the race detector
	@echo "promtool: $$($(GO) run ./hack/monitoring)"
	@echo "helm: $$($(GO) run ./hack/charts helm)"
	$(GO) test -race -shuffle=on $(UNIT_PACKAGES)
	cd hack/cluster/kone && CGO_ENABLED=0 $(GO) test -trimpath ./netpol

.PHONY: test-envtest
test-envtest: ## Test CRDs and controllers, and the operator at a modest scale, against a real etcd and kube-apiserver
	@assets="$$($(GO) run ./hack/cluster assets)" && echo "KUBEBUILDER_ASSETS=$$assets" && \
	KUBEBUILDER_ASSETS="$$assets" $(GO) test -count=1 ./controllers
	$(GO) test -tags=scale -count=1 ./hack/bench/operator

.PHONY: e2e
e2e: ## Test on a real cluster: operator, nodes, edges, from up to down
	$(GO) test -tags=e2e -count=1 -timeout=30m -v ./hack/e2e

.PHONY: interop
interop: ## Test against the released Python nodes, each version in every role
	$(GO) test -tags=interop -count=1 -timeout=30m -v ./hack/interop -parallel 4

.PHONY: browser
browser: ## Test the node's page for people in a headless Chromium
	cd hack/browser && $(GO) vet . && $(GO) test -count=1 -timeout=5m -v .

FUZZ_TIME ?= 30s
# What a peer's bytes meet first: package and target.
FUZZ_WIRE := node/rid:FuzzParse node/protocol:FuzzDecodeEnvelope node/protocol:FuzzDecodeBroadcast node/protocol:FuzzHash
.PHONY: fuzz-wire
fuzz-wire: ## Fuzz RIDs, envelopes, event payloads and hashes for FUZZ_TIME each
	@for t in $(FUZZ_WIRE); do \
	  echo "$$t"; $(GO) test -run='^$$' -fuzz="^$${t#*:}\$$" -fuzztime=$(FUZZ_TIME) ./$${t%:*} || exit 1; \
	done

.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZ_TIME each
	@for p in $$($(GO) list ./node/... ./controllers/...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "$$p $$f"; $(GO) test -run='^$$' -fuzz="^$$f\$$" -fuzztime=$(FUZZ_TIME) $$p || exit 1; \
	  done; done

.PHONY: chaos-short
chaos-short: ## Kill real nodes at random moments, fill their disks: a minute or two of it
	$(GO) test -tags=chaos -count=1 -timeout=10m -v ./hack/chaos

CHAOS ?= -rounds 5000 -duration 4h
.PHONY: chaos
chaos: ## The same for hours (CHAOS='-rounds N -duration D -seed S -run REGEXP'), and the long form of other tests
	KOI_CHAOS=long $(GO) test -count=1 -timeout=2h -run 'Torn|Model|Exhaustive' ./node/store/bolt ./node/edge
	$(GO) run ./hack/chaos $(CHAOS)

## Measure

BENCH_TIME ?= 1s
.PHONY: bench-go
bench-go: ## Go benchmarks of the hot paths, ready for benchstat
	$(GO) test -run='^$$' -bench=. -benchmem -benchtime=$(BENCH_TIME) ./node/...

.PHONY: bench
bench: bench-go ## Measure: Go benchmarks; nodes against the Python reference; the operator at scale (about an hour)
	$(GO) run ./hack/bench -large
	$(GO) run ./hack/bench/operator

.PHONY: clean
clean: ## Remove bin/ and dist/
	rm -rf bin dist
