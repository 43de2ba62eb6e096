# `make help` says what the targets do; CI runs the same ones.

SHELL         := bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# Tools are pinned here, built by the Go toolchain into bin/tools, and rebuilt when a version changes.
BUF_VERSION                   := v1.75.0
GOLANGCI_LINT_VERSION         := v2.15.0
PROTOC_GEN_GO_VERSION         := v1.36.12
PROTOC_GEN_CONNECT_GO_VERSION := v1.21.1
BENCHSTAT_VERSION             := v0.0.0-20260908200009-22c9c6c9d4da

# Least statement coverage of every package of a tree, in percent.
COVER_CRDT        := 95
COVER_REGION      := 80
COVER_REPLICATION := 80

ARGS      ?=
PKG       ?= ./...
BENCH     ?= .
BENCHTIME ?= 1s
BASE      ?= HEAD
FUZZTIME  ?= 10s
ONE       ?= 200
FULL      ?= 20
SLICE     ?= 200
SEED      ?= 1
RUNS      ?= 1

TOOLS                 := $(CURDIR)/bin/tools
BUF                   := $(TOOLS)/.buf@$(BUF_VERSION)
GOLANGCI_LINT         := $(TOOLS)/.golangci-lint@$(GOLANGCI_LINT_VERSION)
PROTOC_GEN_GO         := $(TOOLS)/.protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
PROTOC_GEN_CONNECT_GO := $(TOOLS)/.protoc-gen-connect-go@$(PROTOC_GEN_CONNECT_GO_VERSION)
BENCHSTAT             := $(TOOLS)/.benchstat@$(BENCHSTAT_VERSION)

##@ Use

.PHONY: help
help: ## show this list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: ## start three regions in one process; ARGS="--ephemeral" passes flags to cartd dev
# The first time, the standard library is compiled while the modules come.
	@if [[ ! -e bin/cartd ]]; then go list -deps ./cmd/cartd >/dev/null & CGO_ENABLED=0 go build net/http; wait; fi
	@CGO_ENABLED=0 go build -o bin/cartd ./cmd/cartd
	@exec bin/cartd dev $(ARGS)

.PHONY: build
build: ## build cartd and cartctl, static, into bin/
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/cartd ./cmd/cartctl

##@ Check

.PHONY: test
test: ## run everything that needs no service outside the repository
	@# Most tests of whole processes wait: four at a time keep two cores busy. make lint vets.
	go test -vet=off -timeout 10m -parallel 4 ./...

.PHONY: test-services
test-services: ## run the tests against real services; those that SAMECART_TEST_* does not name are started
	@# Those of the packages' other files are make test's.
	@set -euo pipefail; \
	files=$$(grep -rlE --include='*_test.go' --exclude-dir=bin --exclude-dir=data '^//go:build .*\bservices\b' .); \
	packages=$$(xargs -r dirname <<<"$$files" | sort -u); \
	tests=$$(xargs -r grep -hoE '^func (Test|Fuzz)\w+' <<<"$$files" | cut -d' ' -f2 | sort -u | paste -sd'|'); \
	if [[ -z $$packages || -z $$tests ]]; then echo 'test-services: no test has the build tag "services"' >&2; exit 1; fi; \
	state=$$(mktemp -d); \
	trap 'deploy/services/down "$$state"' EXIT; \
	trap 'exit 130' INT TERM; \
	addresses=$$(deploy/services/up "$$state"); \
	eval "$$addresses"; \
	env | grep '^SAMECART_TEST_' | sort; \
	go test -count=1 -timeout 10m -parallel 4 -tags services -run "^($$tests)$$" $$packages

.PHONY: simulate
simulate: ## run more seeds than the tests do, in virtual time: ONE=200 of one region, FULL=20 of three
	@set -o pipefail; go test -count=1 -timeout 20m ./simulations -run 'TestOneGroup|TestFullSize|TestCrashPoints' -v -seed 101 -one $(ONE) -full $(FULL) -crash 4 | grep -v '^=== \|^    --- '

.PHONY: nightly
nightly: ## run the next slice of simulations, SLICE=200 seeds and a tenth of full size; adds to the totals
	@mkdir -p bin/nightly
	@set -o pipefail; go test -count=1 -timeout 0 ./simulations -run 'TestOneGroup|TestFullSize|TestCrashPoints' -v \
	  -one $(SLICE) -full $$(($(SLICE) / 10)) -crash $$(($(SLICE) / 40)) -log $(CURDIR)/bin/nightly \
	  -totals $(CURDIR)/simulations/testdata/nightly.json -table $(CURDIR)/simulations/README.md | grep -v '^=== \|^    --- '

.PHONY: sim
sim: bin/sim bin/sim.wasm ## run a simulation so that it can be run again; SEED=7 RUNS=5, ARGS="-shape full -v" passes flags
	@bin/sim -seed $(SEED) -runs $(RUNS) $(ARGS)

.PHONY: sim-check
sim-check: bin/sim bin/sim.wasm ## run one simulation twice, in two processes; fail when the traces differ
	@set -euo pipefail; \
	first=$$(bin/sim -seed $(SEED) -safety 30s); again=$$(bin/sim -seed $(SEED) -safety 30s); \
	if [[ $$first != "$$again" ]]; then echo "sim-check: seed $(SEED) gave $$first, then $$again" >&2; exit 1; fi; \
	echo "$$first"

.PHONY: race
race: ## run the tests under the race detector, of packages in which goroutines meet
	@# Values that nobody changes have nothing to race about, and what other processes do is not seen.
	CGO_ENABLED=1 go test -vet=off -race -timeout 20m -parallel 2 \
	  $$(go list ./... | grep -vE '/(proto/.*|crdt.*|pricing|benchpeers|benchcarts|cartctl|mutants|drill)$$')

.PHONY: lint
lint: $(GOLANGCI_LINT) $(BUF) ## check Go code, its layers and formatting, and the protobuf schema
	$(TOOLS)/golangci-lint run ./...
	$(TOOLS)/buf lint
	$(TOOLS)/buf format --diff --exit-code

.PHONY: cover
cover: ## print the statement coverage of crdt, region and replication; fail where it is too low
	.ci/cover crdt $(COVER_CRDT) region $(COVER_REGION) replication $(COVER_REPLICATION)

.PHONY: mutants
mutants: ## plant bugs, one at a time, and see that tests find them; RUN=name,name narrows it, ARGS="-v" says how
	@go run ./simulations/mutants $(if $(RUN),-run $(RUN)) $(ARGS)

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME=10s
	@set -euo pipefail; \
	targets=$$(grep -roE --include='*_test.go' --exclude-dir=bin --exclude-dir=data '^func Fuzz\w+' . | sort -u); \
	if [[ -z $$targets ]]; then echo 'fuzz: no fuzz target found' >&2; exit 1; fi; \
	while IFS=: read -r file func; do \
	  echo "== $$file $${func#func } for $(FUZZTIME)"; \
	  go test -run '^$$' -fuzz "^$${func#func }\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
	done <<<"$$targets"

##@ Measure

.PHONY: bench
bench: $(BENCHSTAT) ## run the benchmarks, one table at the end; PKG=./crdt BENCH=Join BENCHTIME=2s narrow it
	@mkdir -p bin/bench
	@set -o pipefail; go test -run '^$$' -bench '$(BENCH)' -benchmem -benchtime $(BENCHTIME) -timeout 1h $(PKG) | tee bin/bench/bench.txt
	@$(TOOLS)/benchstat bin/bench/bench.txt

.PHONY: bench-peers
bench-peers: $(BENCHSTAT) ## measure one region beside an empty handler, a Redis cart and etcd; ARGS="--rounds 10" passes flags
	@command -v redis-server >/dev/null || deploy/services/install redis-server
	@command -v etcd >/dev/null || deploy/services/install etcd-server
	@mkdir -p bin/bench
	@go build -o bin/ ./cmd/cartd ./cmd/benchpeers
	@bin/benchpeers run --cartd bin/cartd --out bin/bench/peers.txt $(ARGS)

.PHONY: benchcmp
benchcmp: $(BENCHSTAT) ## compare ten runs of the benchmarks here with ten at commit BASE=HEAD
	@set -euo pipefail; \
	rm -rf bin/bench/base; mkdir -p bin/bench/base; \
	git archive '$(BASE)' | tar -x -C bin/bench/base; \
	run() { go test -run '^$$' -bench '$(BENCH)' -benchmem -benchtime $(BENCHTIME) -count 10 -timeout 2h $(PKG); }; \
	(cd bin/bench/base && run) | tee bin/bench/base.txt; \
	run | tee bin/bench/here.txt; \
	rm -rf bin/bench/base; \
	$(TOOLS)/benchstat '$(BASE)'=bin/bench/base.txt here=bin/bench/here.txt

# Go knows whether there is something to build.
.PHONY: bin/sim
bin/sim:
	@go build -o bin/sim ./simulations/replay

.PHONY: bin/sim.wasm
bin/sim.wasm:
	@GOOS=wasip1 GOARCH=wasm go test -c -trimpath -o bin/sim.wasm ./simulations

##@ Maintain

.PHONY: generate
generate: $(BUF) $(PROTOC_GEN_GO) $(PROTOC_GEN_CONNECT_GO) ## write the Go code of proto/
	$(TOOLS)/buf generate

.PHONY: clean
clean: ## remove what was built, tools included; state in data/ stays
	rm -rf bin coverage.out

# A stamp names the version that was installed, so a second call does nothing.
define install
	GOBIN=$(TOOLS) CGO_ENABLED=0 go install $(1)@$*
	@rm -f $(@:@$*=)@* && touch $@
endef

$(TOOLS)/.buf@%:
	$(call install,github.com/bufbuild/buf/cmd/buf)

$(TOOLS)/.golangci-lint@%:
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint)

$(TOOLS)/.protoc-gen-go@%:
	$(call install,google.golang.org/protobuf/cmd/protoc-gen-go)

$(TOOLS)/.protoc-gen-connect-go@%:
	$(call install,connectrpc.com/connect/cmd/protoc-gen-connect-go)

$(TOOLS)/.benchstat@%:
	$(call install,golang.org/x/perf/cmd/benchstat)
