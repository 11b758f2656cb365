#!/usr/bin/env bash
# `make bench`: every figure there is. Nothing here is a test: a figure that is missed fails nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

section() { printf '\n======== %s ========\n' "$1"; }

section "set-up" && scripts/setup.sh bench || exit 1
section "build" && make --no-print-directory build || exit 1
section "micro-benchmarks" && cargo bench ${CARGO_FLAGS:-} -p auralink-media --bench egress --bench forward
section "AuraLink (B) beside LiveKit (A)" && benches/compare/run.sh "${SHAPES:-audio50,video50,meeting10}"
section "joining in a browser" && node benches/compare/browser.mjs
section "media while speech is saturated" && benches/compare/under_ai.sh
section "captions in a browser" && node --test --test-reporter=spec tests/e2e/captions.test.mjs | grep -E 'ℹ (word|a word)'
