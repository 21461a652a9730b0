# make alone prints what there is. Everything that a target needs, it builds or fetches by itself; only Go is asked for.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO      ?= go
VERSION ?= $(shell cat cmd/flyball/VERSION)
REVISION := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/prometheus/common/version.Version=$(VERSION) -X github.com/prometheus/common/version.Revision=$(REVISION)
TOOL    := $(GO) tool -modfile=.ci/tools.mod
STATE   := $(or $(XDG_STATE_HOME),$(HOME)/.local/state)/flyball/quickstart

# NVIDIA's header marks what go-nvml still binds as deprecated; fifty warnings in a first build would hide a real one.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations

.PHONY: help
help: ## print this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: build ## close the loop here: model servers, batching proxy, rules, real demand; Ctrl-C ends everything
	@exec bin/quickstart --storage.path='$(STATE)'

.PHONY: build
build: ## build bin/flyball, its manual page, the example model server and the quickstart
	@mkdir -p bin
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/flyball ./examples/modelserver ./examples/quickstart
	@bin/flyball --help-man >bin/flyball.1

.PHONY: onnxserver
onnxserver: ## build bin/onnxserver, the model server on ONNX Runtime, and its models in .cache/models (a C compiler and npm are needed)
	@mkdir -p bin
	@.ci/components onnxruntime
	cd examples/onnxserver && CGO_ENABLED=1 $(GO) build -ldflags '$(LDFLAGS)' -o ../../bin/onnxserver .
	cd examples/onnxserver && $(GO) run ./genmodels ../../.cache/models

.PHONY: test
test: ## build everything and run every test (race detector on all that does not link the TSDB); the first time see components
	@.ci/test

.PHONY: components
components: ## get the real programs that tests run flyball beside (make test does it too; the first time it builds a kube-apiserver: ten minutes)
	@.ci/components

.PHONY: race
race: ## every test under the race detector, the TSDB included (minutes)
	CGO_ENABLED=1 $(GO) test -race ./...

.PHONY: lint
lint: ## golangci-lint, gofumpt and go vet (the first run builds the linter: minutes)
	$(GO) vet ./...
	$(TOOL) golangci-lint run --config .ci/golangci.yml ./...

.PHONY: fmt
fmt: ## format the Go code
	$(TOOL) golangci-lint fmt --config .ci/golangci.yml ./...

.PHONY: mixin
mixin: ## format the mixin's Jsonnet and render its rules, alerts and dashboards into mixin/out, and the example's PrometheusRule
	$(GO) test ./mixin -run '^(TestFormat|TestOut)$$' -update -count=1
	out=$$(mktemp -d) && $(GO) run ./cmd/flyball mixin render -o $$out --set flyballURL=http://flyball.flyball.svc:9838 >/dev/null && \
		cp $$out/kubernetes/prometheusrule.yaml examples/kubernetes/monitoring/prometheusrule.yml && rm -r $$out

.PHONY: oracle
oracle: ## ask the HPA's own controller again what rules/convert is tested by (builds it: minutes)
	cd rules/convert/oracle && $(GO) test ./... -count=1

FUZZTIME ?= 20s
.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (default 20s)
	@for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
	  for name in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' $$file); do \
	    echo "== $$name ($$(dirname $$file))"; \
	    $(GO) test -run='^$$' -fuzz="^$$name\$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=1s "$$(dirname $$file)"; \
	  done; \
	done

.PHONY: mutants
mutants: ## break the deciding pipeline in a hundred ways: a test must notice each (minutes)
	@.ci/mutants

BENCHCOUNT ?= 6
.PHONY: bench
bench: ## every benchmark, BENCHCOUNT times, compared with the last saved run by benchstat
	@mkdir -p .cache
	$(GO) test -run='^$$' -bench=. -benchmem -count=$(BENCHCOUNT) ./... | tee .cache/bench.new
	@if [ -f .cache/bench.base ]; then $(TOOL) benchstat .cache/bench.base .cache/bench.new; \
	 else cp .cache/bench.new .cache/bench.base; echo "saved as the base for the next run"; fi

# bin/bench --help has the flags; it exits with 3 where a promise is missed, of which make makes 2.
BENCHFLAGS ?=
.PHONY: bench-batchproxy
bench-batchproxy: build ## the batching proxy beside nginx, haproxy and a bare reverse proxy: three quarters of an hour, BENCHFLAGS=--quick three minutes; fails where a promise is missed
	@for program in nginx haproxy wrk; do [ -x .cache/components/$$program ] || { .ci/components; break; }; done
	$(GO) build -o bin/ ./batchproxy/bench
	@if grep -q '^onnxserver:' Makefile; then $(MAKE) onnxserver || true; fi # the scene is left out where there is no server or model
	@bin/bench $(BENCHFLAGS)

.PHONY: bench-exporter
bench-exporter: build ## the exporter beside node_exporter, on eight stand-ins for GPUs: CPU, memory, GPUs that hang; three minutes, gcc is needed; fails where a promise is missed
	@[ -x .cache/components/node_exporter ] || .ci/components node_exporter
	$(GO) build -o bin/bench-exporter ./exporter/bench
	@bin/bench-exporter $(BENCHFLAGS)

.PHONY: eval-forecast
eval-forecast: ## how well demand is forecast, as one table with the baselines: DATA=DIR of ServeGen, crane, M4 hourly and NAB
	@test -d '$(DATA)' || { echo 'DATA=DIR names no folder: it holds what forecast/eval/accuracy_test.go lists' >&2; exit 2; }
	@FORECAST_DATA='$(abspath $(DATA))' $(GO) test ./forecast/eval -run '^Test(Accuracy|NAB)' -v -count=1 -timeout 60m

.PHONY: figures
figures: build ## measure what the README quotes: size, start, memory, CPU per request
	@.ci/figures

.PHONY: cover
cover: ## test coverage, total and by function, in .cache/cover.html
	@mkdir -p .cache
	$(GO) test -coverprofile=.cache/cover.out ./...
	$(GO) tool cover -html=.cache/cover.out -o .cache/cover.html
	$(GO) tool cover -func=.cache/cover.out | tail -1

.PHONY: clean
clean: ## remove what was built and the quickstart's history
	rm -rf bin .cache
	rm -rf '$(STATE)'
