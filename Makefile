# keybroker. `make run` shows it at work, `make test` tests it; each sets up what
# it needs. `make help` lists the rest.

SHELL         := /bin/bash
.SHELLFLAGS   := -eu -o pipefail -c
.DEFAULT_GOAL := build

# The version of every tool, in one place. They are installed under .tools/.
BUF_VERSION             := v1.75.0
PROTOC_GEN_GO_VERSION   := v1.36.12
PROTOC_GEN_GRPC_VERSION := v1.6.2
GOLANGCI_VERSION        := v2.15.0
YAMLLINT_VERSION        := 1.38.0
MOTO_VERSION            := 5.2.5
AWSCLI_VERSION          := 1.46.3
BOTO3_VERSION           := 1.44.8

TOOLS := $(CURDIR)/.tools
BIN   := $(TOOLS)/bin
export PATH := $(BIN):$(PATH)
# A tool that wants another Go would download it.
export GOTOOLCHAIN := local

# The version of Go's FIPS 140-3 module that is certified (lib/fips140/certified.txt
# in GOROOT). What is built with it runs in FIPS mode unless GODEBUG says fips140=off.
FIPS140 := v1.0.0

BROKER   ?= bin/keybroker
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X main.version=$(VERSION)
FUZZTIME ?= 60s

.PHONY: build
build: ## bin/keybroker: static and reproducible
	CGO_ENABLED=0 GOFIPS140=$(FIPS140) go build -trimpath -ldflags '$(LDFLAGS)' -o $(BROKER) ./cmd/keybroker

.PHONY: run
run: build ## a broker with its own keyring, policy and audit log, in the foreground; ARGS='--dir DIR'
	@exec bin/keybroker dev $(ARGS)

.PHONY: test
test: ## unit, property, golden, script and race tests
	go test -race ./...
	GOFIPS140=$(FIPS140) GODEBUG=fips140=only go test ./...

.PHONY: fuzz
fuzz: ## every fuzz target: FUZZTIME for what reads stored data, a third for the rest
	@deploy/lint/fuzz.sh $(FUZZTIME)

# Where the latency of failover is written to, and which tests run.
FAILOVER_TABLE ?= integration/results/failover.md
RUN            ?= .
.PHONY: integration
integration: build $(TOOLS)/vaultserver $(TOOLS)/collector moto awsclients tikvclient ## the same binary against real KMSs and emulators, and with faults between
	@mkdir -p $(dir $(FAILOVER_TABLE))
	cd integration && KEYBROKER_BIN=$(CURDIR)/bin/keybroker KEYBROKER_VAULTSERVER=$(TOOLS)/vaultserver KEYBROKER_COLLECTOR=$(TOOLS)/collector \
		KEYBROKER_MOTO=$(TOOLS)/venv/bin/moto_server KEYBROKER_FAILOVER_TABLE=$(abspath $(FAILOVER_TABLE)) \
		KEYBROKER_AWSCLI=$(TOOLS)/awsclients/bin/aws KEYBROKER_TIKVCLIENT=$(TOOLS)/tikvclient/bin/tikvclient \
		go test -count=1 -timeout 20m -run '$(RUN)' ./...

# Where the tables of the outages are written to, and their curves beside it.
OUTAGE_TABLE ?= integration/results/outage.md
OUTAGE_DATA  := $(CURDIR)/integration/results
.PHONY: outage
outage: build $(TOOLS)/vaultserver moto ## all KMSs gone for half an hour by a fake clock and for a minute for real: tables and curves
	@mkdir -p $(dir $(OUTAGE_TABLE)) $(OUTAGE_DATA)
	KEYBROKER_OUTAGE_CURVES=$(OUTAGE_DATA)/outage.json go test -count=1 -run '^TestOutageCurve$$' ./broker
	cd integration && KEYBROKER_BIN=$(CURDIR)/bin/keybroker KEYBROKER_VAULTSERVER=$(TOOLS)/vaultserver \
		KEYBROKER_MOTO=$(TOOLS)/venv/bin/moto_server KEYBROKER_OUTAGE_CURVES=$(OUTAGE_DATA)/outage.json \
		KEYBROKER_OUTAGE_TABLE=$(abspath $(OUTAGE_TABLE)) go test -count=1 -run '^TestOutage$$' .

# Where the table of a fleet's restart is written to.
STORM_TABLE ?= integration/results/storm.md
.PHONY: storm
storm: ## a thousand nodes restart at once before a KMS with a quota, with brokers and without
	@mkdir -p $(dir $(STORM_TABLE))
	cd integration && go run ./storm -table $(abspath $(STORM_TABLE))

# A run of everything that can go wrong, drawn by SEED, in a mount namespace where that
# may be had: names and file systems are its own there.
CHAOS_FOR   ?= 3m
CHAOS_TABLE ?= integration/results/chaos.md
CHAOS_PLOT  ?= integration/results/chaos.svg
.PHONY: chaos
chaos: build $(TOOLS)/vaultserver moto ## KMSs and broker that fail by a seed's plan, under load; SEED=n CHAOS_FOR=3m
	@$(MAKE) --no-print-directory -s build BROKER=bin/keybroker-next VERSION=$(VERSION)-next
	@for own in 'unshare --mount env KEYBROKER_OWN_MOUNTS=1' 'unshare --user --map-root-user --mount env KEYBROKER_OWN_MOUNTS=1' env; do if $$own true 2>/dev/null; then break; fi; done; \
		cd integration && KEYBROKER_BIN=$(CURDIR)/bin/keybroker KEYBROKER_BIN_NEXT=$(CURDIR)/bin/keybroker-next \
		KEYBROKER_VAULTSERVER=$(TOOLS)/vaultserver KEYBROKER_MOTO=$(TOOLS)/venv/bin/moto_server \
		KEYBROKER_CHAOS_FOR=$(CHAOS_FOR) KEYBROKER_CHAOS_SEED=$(SEED) \
		KEYBROKER_CHAOS_TABLE=$(abspath $(CHAOS_TABLE)) KEYBROKER_CHAOS_PLOT=$(abspath $(CHAOS_PLOT)) \
		go test -count=1 -timeout 60m -v -exec "$$own" -run '^TestChaos$$' .

# moto needs Python. Without it the tests that need moto say so and are skipped,
# but in CI that is an error.
.PHONY: moto
moto:
	@if [ -e $(TOOLS)/venv/moto-$(MOTO_VERSION) ]; then exit 0; fi; \
		python3 -m venv $(TOOLS)/venv && \
		$(TOOLS)/venv/bin/pip install -q --disable-pip-version-check 'moto[server]==$(MOTO_VERSION)' && \
		touch $(TOOLS)/venv/moto-$(MOTO_VERSION) && exit 0; \
		if [ "$${CI:-}" = true ]; then echo "integration: moto is missing: it needs python3-venv" >&2; exit 1; fi; \
		echo "integration: SKIP: moto is missing: it needs python3-venv"

# The AWS CLI and boto3 likewise, apart from moto, which wants a boto3 of its own.
.PHONY: awsclients
awsclients:
	@done=$(TOOLS)/awsclients/$(AWSCLI_VERSION)-$(BOTO3_VERSION); if [ -e $$done ]; then exit 0; fi; \
		python3 -m venv $(TOOLS)/awsclients && \
		$(TOOLS)/awsclients/bin/pip install -q --disable-pip-version-check awscli==$(AWSCLI_VERSION) boto3==$(BOTO3_VERSION) && \
		touch $$done && exit 0; \
		if [ "$${CI:-}" = true ]; then echo "integration: the AWS CLI is missing: it needs python3-venv" >&2; exit 1; fi; \
		echo "integration: SKIP: the AWS CLI is missing: it needs python3-venv"

# What TiKV is built of needs a newer Rust than most distributions have, and crates.io.
# Without them the tests of it are skipped and say so, in CI as well.
RUST_VERSION := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' integration/tikvclient/Cargo.toml)
.PHONY: tikvclient
tikvclient:
	@have=$$(cargo --version 2>/dev/null | cut -d' ' -f2 || true); \
		if [ "$$(printf '%s\n' "$${have:-0}" $(RUST_VERSION) | sort -V | head -n 1)" != $(RUST_VERSION) ]; then \
			echo "integration: SKIP: TiKV's own AWS client is missing: it needs cargo $(RUST_VERSION), found $${have:-none}"; \
		elif [ ! -x $(TOOLS)/tikvclient/bin/tikvclient ] && ! cargo fetch -q --locked --manifest-path integration/tikvclient/Cargo.toml; then \
			echo "integration: SKIP: TiKV's own AWS client is missing: its crates cannot be fetched"; \
		else \
			$(MAKE) --no-print-directory -s $(TOOLS)/tikvclient/bin/tikvclient && exit 0; \
			rm -f $(TOOLS)/tikvclient/bin/tikvclient; \
			if [ "$${CI:-}" = true ]; then exit 1; fi; \
			echo "integration: SKIP: TiKV's own AWS client is missing: it needs libssl-dev and pkg-config"; \
		fi
$(TOOLS)/tikvclient/bin/tikvclient: $(addprefix integration/tikvclient/,Cargo.toml Cargo.lock src/main.rs)
	@mkdir -p $(@D)
	cargo build -q --release --locked --manifest-path $< --target-dir $(TOOLS)/tikvclient/target
	cp $(TOOLS)/tikvclient/target/release/tikvclient $@

# These take minutes to compile, so they are built once for each version of their
# source. Each is a Go module of its own, so that nothing else inherits what it is
# made of.
$(TOOLS)/vaultserver $(TOOLS)/collector: $(TOOLS)/%: $(foreach f,go.mod go.sum main.go,integration/%/$(f))
	@mkdir -p $(TOOLS)
	cd integration/$* && CGO_ENABLED=0 go build -trimpath -o $@ .

.PHONY: figures
figures: build ## size, memory, time to ready; a cached unwrap against a call that does nothing
	@integration/figures.sh

.PHONY: lint
lint: lint-go lint-proto lint-deploy ## everything that can be checked without running it

.PHONY: lint-go
lint-go: $(BIN)/golangci-lint-$(GOLANGCI_VERSION)
	@files=$$(git ls-files '*.go' | grep -v '\.pb\.go$$' | xargs gofmt -l); \
		if [ -n "$$files" ]; then echo "not gofmted:" $$files; exit 1; fi
	go vet ./...
	GOOS=darwin GOARCH=arm64 go vet ./...
	$< run ./...
	cd integration && go vet ./... && $< run --config $(CURDIR)/.golangci.yml ./...
	cd integration/vaultserver && go vet ./...
	cd integration/collector && go vet ./...
	cd deploy/lint/kubernetes && go vet ./...

# The API is compared with the last release, or, before there is one, with the
# commit before the last that changed it.
PROTO_BASE ?= $(shell git describe --tags --abbrev=0 2>/dev/null || git log -1 --format=%H --skip=1 -- proto)
.PHONY: lint-proto
lint-proto: $(BIN)/buf-$(BUF_VERSION)
	$< lint
	$< breaking --against '.git#ref=$(PROTO_BASE)'

.PHONY: lint-deploy
lint-deploy: $(TOOLS)/collector
	@deploy/lint/deploy.sh

.PHONY: proto
proto: $(BIN)/buf-$(BUF_VERSION) $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc ## generate the Go of the API
	$< generate proto

# Each tool's file carries its version, so that another version is another file.
$(BIN)/buf-$(BUF_VERSION):
	GOBIN=$(BIN) go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	mv $(BIN)/buf $@
$(BIN)/golangci-lint-$(GOLANGCI_VERSION):
	GOBIN=$(BIN) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(BIN)/golangci-lint $@
$(BIN)/protoc-gen-go:
	GOBIN=$(BIN) go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)
$(BIN)/protoc-gen-go-grpc:
	GOBIN=$(BIN) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GRPC_VERSION)

.PHONY: clean
clean: ## remove what was built, tools included
	rm -rf bin .tools

.PHONY: help
help:
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
