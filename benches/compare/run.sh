#!/usr/bin/env bash
# AuraLink beside LiveKit 1.13.5: lkbench loads both in turn, each time with fresh processes, in the order A B A B, and
# table.mjs prints a Markdown table. LiveKit is A, AuraLink is B; ratios are B / A within a pair of neighbouring runs.
#
#   benches/compare/run.sh [SHAPE,...]       default: audio50,video50,meeting10; `lkbench shapes` lists them
#
#   PAIRS=3 WINDOW=10s       pairs of runs per shape, and what is measured of each
#   A=livekit B=auralink     the servers; A=livekit B=livekit shows how far from 1 a ratio is by chance
#
# The runs' JSON lines are kept in AURALINK_CACHE/bench. Trust the ratios more than the figures, on a machine that is idle.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cache=${AURALINK_CACHE:-$HOME/.cache/auralink}
shapes=${1:-audio50,video50,meeting10}
PAIRS=${PAIRS:-3} WINDOW=${WINDOW:-10s} A=${A:-livekit} B=${B:-auralink}
port=${BENCH_PORT:-27180}   # HTTP; the next two are media's and gRPC's
key=benchkey secret=a-benchmark-secret-of-more-than-32-characters

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache/bench"

# Both listen on loopback alone, with the same ports: only one runs at a time. Captions are off: LiveKit has none.
cat >"$work/auralink.yaml" <<YAML
port: $port
grpc_port: $((port + 2))
bind_addresses: ["127.0.0.1"]
data_dir: $work/data
rtc: {udp_port: $((port + 1)), node_ip: 127.0.0.1}
keys: {$key: $secret}
captions: {default: false}
logging: {level: warn}
YAML
cat >"$work/livekit.yaml" <<YAML
port: $port
bind_addresses: ["127.0.0.1"]
rtc:
  udp_port: $((port + 1))
  tcp_port: 0
  node_ip: 127.0.0.1
  enable_loopback_candidate: true
  interfaces: {includes: [lo]}
  ips: {includes: [127.0.0.1/32]}
  stun_servers: ["127.0.0.1:3478"]
keys: {$key: $secret}
logging: {level: warn}
YAML

command_of() {
  case $1 in
    auralink) echo "env AURALINK_CACHE=$cache ${AURALINK_BIN:-$root/bin/auralink} --config $work/auralink.yaml" ;;
    livekit) echo "$cache/tools/livekit-server --config $work/livekit.yaml" ;;
    *) echo "$1 is neither auralink nor livekit" >&2; exit 1 ;;
  esac
}
a=$(command_of "$A") b=$(command_of "$B")

results=$cache/bench/compare-$(date +%Y%m%d-%H%M%S)-$A-$B.jsonl
log=${results%.jsonl}.log
LIVEKIT_API_SECRET=$secret "$cache/tools/lkbench" compare -a "$a" -b "$b" -shapes "$shapes" -n "$PAIRS" \
  -url "ws://127.0.0.1:$port" -api-key "$key" -server-log "$cache/bench/last" -- -window "$WINDOW" >"$results" \
  2> >(tee "$log" | grep --line-buffered -E ' [ab] [0-9]+(/[0-9]+)?: ' >&2)
node "$root/benches/compare/table.mjs" "$results" "$A" "$B"
echo
echo "every figure: $log; results: $results; servers' logs: $cache/bench/last-*.log"
