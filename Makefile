# Everything a person or a machine does with this repository. `make help` lists it.
SHELL       := /bin/bash -o pipefail
GO          ?= go
PYTHON      ?= python3
BUILD       := .build
TOOLS       := $(CURDIR)/$(BUILD)/tools
VENV        := $(BUILD)/venv
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS     := -s -w -X portico/internal/server.Version=$(VERSION)
PLATFORMS   := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
# Packages with concurrency: their tests run under the race detector, and once.
RACE        := admission artifact collect compute environment gateway host http1 inference onnx onnxrt onnxserve onnxworker reconcile server store telemetry
space       := $(subst ,, )
GOLANGCI    := $(TOOLS)/golangci-lint
export CGO_ENABLED ?= 0

.PHONY: help build demo test bench lint format unit race conformance compat python cross clean tools

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## compile bin/portico, and bin/portico-onnx beside it
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/portico ./cmd/portico
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/portico-onnx ./cmd/portico-onnx

demo: build ## a real model answers on a real URL (KEEP=1 leaves it running)
	scripts/demo.sh

test: build lint unit race python conformance cross ## everything that must pass
	@scripts/leftovers.sh

bench: build ## Portico against Flask + gunicorn, side by side
	bench/gateway/run.sh

lint: $(GOLANGCI) $(VENV)/.done ## format, go.mod, golangci-lint (go vet is one of it), ruff, mypy
	@test -z "$$(gofmt -l cmd internal workers bench test examples 2>/dev/null)" || { gofmt -l cmd internal workers bench test examples; echo "run make format"; exit 1; }
	@for m in . test/compat/go; do d=$$(cd $$m && $(GO) mod tidy -diff 2>/dev/null); test -z "$$d" || { echo "$$d"; echo "go.mod of $$m is untidy: run go mod tidy there"; exit 1; }; done # without a network it says nothing
	$(GOLANGCI) run ./...
	cd test/compat/go && $(GOLANGCI) run ./...
	$(VENV)/bin/ruff check workers examples bench test
	$(VENV)/bin/ruff format --check workers examples bench test
	$(VENV)/bin/mypy

format: $(VENV)/.done ## rewrite Go and Python in the one format
	gofmt -w cmd internal workers bench test
	$(VENV)/bin/ruff format workers examples bench test

# The gateway is in both: its bound on allocations means nothing under the race detector.
unit: ## Go tests of the packages that `make race` does not run
	$(GO) test ./internal/gateway $$($(GO) list ./internal/... ./workers/... ./cmd/... ./bench/... | \
		grep -vE '^portico/internal/($(subst $(space),|,$(RACE)))(/|$$)')

# Programs that the tests start are under the detector too: they end at a race, with a failure that the test sees, and
# at their end do not wait the second in which it would look for more.
race: ## Go tests of the packages with concurrency, under the race detector
	CGO_ENABLED=1 GORACE='halt_on_error=1 atexit_sleep_ms=0' $(GO) test -race -parallel 4 $(RACE:%=./internal/%/...)

python: $(VENV)/.done ## tests of the Python worker
	$(VENV)/bin/pytest -q workers/python/tests

conformance: build ## the whole product as a user sees it: real server, real clients, failures
	PORTICO_TEST_BINARY=$(CURDIR)/bin/portico $(GO) test -count=1 -parallel 4 -timeout 30m ./test/...

compat: ## every official client, newest and older, in both modes (its quick part is in conformance)
	PORTICO_TEST_COMPAT=all $(GO) test -count=1 -timeout 60m ./test/compat/

# What was linked before and has not changed is not linked again.
cross: ## the binaries compile for every platform
	@for p in $(PLATFORMS); do echo "build $$p"; GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -buildvcs=false -ldflags '-s -w' \
		-o $(BUILD)/cross/$$p/ ./cmd/portico ./cmd/portico-onnx || exit 1; done

tools: $(GOLANGCI) $(VENV)/.done ## install the pinned tools below .build

$(GOLANGCI): tools/go.mod tools/go.sum
	@mkdir -p $(TOOLS)
	cd tools && GOBIN=$(TOOLS) GOFLAGS=-mod=mod $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(VENV)/.done: requirements-dev.txt
	@mkdir -p $(BUILD)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -r requirements-dev.txt
	@touch $@

clean: ## remove what was built
	rm -rf bin $(BUILD)
