#!/usr/bin/env bash
# Media while speech is saturated: lkbench's audio50 on one AuraLink, with speech idle and with STREAMS streams spoken to in
# real time, in turn. Prints p50 and p99 of the forwarding latency and the ratio busy / idle of each pair.
#
#   benches/compare/under_ai.sh      STREAMS=20 PAIRS=3 WINDOW=10s SHAPE=audio50
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${AURALINK_CACHE:-$HOME/.cache/auralink}
STREAMS=${STREAMS:-20} PAIRS=${PAIRS:-3} WINDOW=${WINDOW:-10s} SHAPE=${SHAPE:-audio50}
python=$cache/test-venv/bin/python
results=$cache/bench/under-ai-$(date +%Y%m%d-%H%M%S).jsonl
log=$cache/bench/under-ai.log
mkdir -p "$cache/bench"

inside() {
  local pid load
  lkbench() { "$cache/tools/lkbench" run -shape "$SHAPE" -window "$WINDOW" -label "$1" -pid "${AURALINK_PID:-0}" -table=false 2>>"$log"; }
  for pair in $(seq "$PAIRS"); do
    lkbench a | tee -a "$results" | node -e 'const r = JSON.parse(require("fs").readFileSync(0)); console.log(`idle: p50 ${r.audio_ms.p50} ms, p99 ${r.audio_ms.p99} ms`)'
    coproc SPEECH { exec "$python" -B "$root/benches/compare/under_ai.py" "$AURALINK_GRPC" "$STREAMS"; }
    pid=$SPEECH_PID
    exec 7<&"${SPEECH[0]}"
    read -r load <&7   # all streams have been heard from
    lkbench b | tee -a "$results" | node -e 'const r = JSON.parse(require("fs").readFileSync(0)); console.log(`busy: p50 ${r.audio_ms.p50} ms, p99 ${r.audio_ms.p99} ms, machine idle ${r.idle_pct} %`)'
    kill -TERM "$pid"
    read -r load <&7 && echo "pair $pair: $load"
    exec 7<&-
    wait "$pid" || true
  done
}

if [ "${1:-}" = --inside ]; then
  results=$2
  inside
else
  : >"$results"
  # The fixture of the end-to-end tests starts the server, and names it by the environment.
  env PAIRS="$PAIRS" STREAMS="$STREAMS" WINDOW="$WINDOW" SHAPE="$SHAPE" \
    node "$root/tests/e2e/fixture/with-server.mjs" "$0" --inside "$results"
  node "$root/benches/compare/table.mjs" "$results" "speech idle" "$STREAMS streams of speech"
  echo "results: $results"
fi
