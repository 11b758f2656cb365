#!/usr/bin/env bash
# `make test`: every check there is, stage by stage, with a table of the stages at the end. A stage that fails does not
# hide the next ones' results; one that needs a failed stage is left out and counts as failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make=(make --no-print-directory)
names=() results=() seconds=()

# stage NAME COMMAND...
stage() {
  local name=$1 start=$SECONDS result=ok
  shift
  printf '\n======== %s ========\n' "$name"
  "$@" || result=FAILED
  names+=("$name") results+=("$result") seconds+=($((SECONDS - start)))
  [ "$result" = ok ]
}

left_out() {
  names+=("$1") results+=("FAILED (left out: $2)") seconds+=(0)
}

summary() {
  printf '\n======== summary ========\n'
  local i failed=0
  for i in "${!names[@]}"; do
    printf '%-16s %4d min %02d s  %s\n' "${names[i]}" $((seconds[i] / 60)) $((seconds[i] % 60)) "${results[i]}"
    [ "${results[i]}" = ok ] || failed=1
  done
  printf '%-16s %4d min %02d s\n' total $((SECONDS / 60)) $((SECONDS % 60))
  [ "$failed" = 0 ] && echo "all stages passed" || echo "there are failures: see above"
  return "$failed"
}

page_tests() { (cd server/web && npm run --silent test); }

if stage "set-up" scripts/setup.sh test; then
  stage "lint" "${make[@]}" lint
  stage "Rust tests" cargo test ${CARGO_FLAGS:-} --workspace --no-fail-fast
  stage "page tests" page_tests
  if stage "build" "${make[@]}" build; then
    stage "end to end" scripts/e2e.sh
  else
    left_out "end to end" "no binary"
  fi
fi
summary
