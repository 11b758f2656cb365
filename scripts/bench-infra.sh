#!/usr/bin/env bash
# `make bench-infra`: what the adapters cost, beside what a user would pick instead, in one run. Nothing here is a test: a
# figure that is missed fails nothing. ONLY names some of them: make bench-infra ONLY="queue vectors"
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh test || exit 1
for example in infrastructure/examples/bench_*.rs; do
  name=$(basename "$example" .rs)
  [ -z "${ONLY:-}" ] || [[ " $ONLY " == *" ${name#bench_} "* ]] || continue
  printf '\n======== %s ========\n' "${name#bench_}"
  cargo run ${CARGO_FLAGS:-} --quiet --release -p auralink-infrastructure --example "$name"
done
