# AuraLink's commands. `make` alone lists them. Build outputs live in AURALINK_CACHE, outside the checkout, but for
# bin/auralink; the long recipes are scripts/*.sh.

SHELL := /bin/bash
export AURALINK_CACHE   ?= $(HOME)/.cache/auralink
export CARGO_TARGET_DIR ?= $(AURALINK_CACHE)/target
# The page as the binary embeds it: made by `scripts/setup.sh run`, read by the server's build.
export AURALINK_WEB_DIST ?= $(AURALINK_CACHE)/web-dist
export PATH := $(HOME)/.cargo/bin:$(PATH)

# Flags for every cargo command that builds, such as --locked.
CARGO_FLAGS ?=
# Arguments of `make run` and `make dev`: make run ARGS="--config my.yaml"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run dev build test lint fmt bench bench-infra e2e parity

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what building, running and testing need (quick when nothing is missing)
	@scripts/setup.sh test

run: ## install what is missing, build, and start AuraLink; it prints the page's URL
	@scripts/setup.sh run
	@$(MAKE) --no-print-directory build
	@exec ./bin/auralink $(ARGS)

dev: ## start a debug build with the key devkey and the secret `secret`
	@scripts/setup.sh run
	cargo run $(CARGO_FLAGS) -p auralink -- --dev $(ARGS)

build: ## build the release binary, bin/auralink
	@[ -e "$(AURALINK_WEB_DIST)/index.html" ] || scripts/setup.sh run
	cargo build $(CARGO_FLAGS) --release -p auralink
	@mkdir -p bin && cp "$(CARGO_TARGET_DIR)/release/auralink" bin/auralink.new && mv bin/auralink.new bin/auralink
	@scripts/setup.sh guest
	@cp "$(AURALINK_CACHE)/guest/auralink-guest" bin/auralink-guest.new && mv bin/auralink-guest.new bin/auralink-guest

test: ## everything: set-up, lint, Rust tests, the page's tests, build, end-to-end tests
	@scripts/test.sh

lint: ## formatting, clippy with warnings as errors, and licences when cargo-deny is installed
	cargo fmt --all --check
	cargo clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny --locked check bans licenses sources; \
	 else echo "licences: not checked here, cargo-deny is not installed (cargo install cargo-deny); the GitHub workflow checks them"; fi

fmt: ## format the Rust code
	cargo fmt --all

e2e: ## the end-to-end tests alone, against bin/auralink: make e2e ONLY=captions
	@scripts/e2e.sh $(ONLY)

parity: ## make the parity tests' packs and expected outputs anew, by the reference implementations: make parity ONLY=translation
	@scripts/parity.sh $(ONLY)

bench: ## figures: micro-benchmarks, and AuraLink beside LiveKit (takes about 20 minutes)
	@scripts/bench.sh

bench-infra: ## figures of queue, sandboxes, vectors and files beside their engines: make bench-infra ONLY=queue
	@scripts/bench-infra.sh
