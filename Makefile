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
RACE        := ./internal/admission/... ./internal/gateway/... ./internal/inference/... ./internal/host/... \
               ./internal/compute/... ./internal/reconcile/... ./internal/store/... ./internal/telemetry/... \
               ./internal/artifact/... ./internal/environment/... ./internal/server/...
GOLANGCI    := $(TOOLS)/golangci-lint
export CGO_ENABLED ?= 0

.PHONY: help build demo test bench lint format unit race conformance compat python cross clean tools

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

build: ## compile bin/portico
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/portico ./cmd/portico

demo: build ## a real model answers on a real URL (KEEP=1 leaves it running)
	scripts/demo.sh

test: build lint unit race python conformance cross ## everything that must pass
	@scripts/leftovers.sh

bench: build ## Portico against Flask + gunicorn, side by side
	bench/gateway/run.sh

lint: $(GOLANGCI) $(VENV)/.done ## format, vet, golangci-lint, ruff, mypy
	@test -z "$$(gofmt -l cmd internal workers bench test examples 2>/dev/null)" || { gofmt -l cmd internal workers bench test examples; echo "run make format"; exit 1; }
	$(GO) vet ./...
	$(GOLANGCI) run ./...
	cd test/compat/go && $(GO) vet ./... && $(GOLANGCI) run ./...
	$(VENV)/bin/ruff check workers examples bench test
	$(VENV)/bin/ruff format --check workers examples bench test
	$(VENV)/bin/mypy

format: $(VENV)/.done ## rewrite Go and Python in the one format
	gofmt -w cmd internal workers bench test
	$(VENV)/bin/ruff format workers examples bench test

unit: ## Go tests of every package
	$(GO) test ./internal/... ./workers/... ./cmd/... ./bench/...

# One package at a time: these tests start many processes, and time-outs must not come from each other's load.
race: ## the packages with concurrency, under the race detector
	CGO_ENABLED=1 $(GO) test -race -short -p 1 $(RACE)

python: $(VENV)/.done ## tests of the Python worker
	$(VENV)/bin/pytest -q workers/python/tests

conformance: build ## the whole product as a user sees it: real server, real clients, failures
	$(GO) test -count=1 -parallel 4 -timeout 30m $$($(GO) list ./test/... | grep -v /test/compat)
	$(GO) test -count=1 -short -timeout 30m ./test/compat/

compat: ## every official client, newest and older, in both modes (its quick part is in conformance)
	$(GO) test -count=1 -timeout 60m ./test/compat/

cross: ## the binary compiles for every platform
	@for p in $(PLATFORMS); do echo "build $$p"; GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -o /dev/null ./cmd/portico || exit 1; done

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
