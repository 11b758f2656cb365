#!/usr/bin/env bash
# The end-to-end tests, one after the other, against bin/auralink:
#
#   scripts/e2e.sh             all of them
#   scripts/e2e.sh captions    those whose file name contains `captions`
#
# E2E_TARGET=livekit runs what applies against LiveKit's own server instead (AURALINK_CACHE/tools/livekit-server, which
# `make bench` installs): that is how the protocol tests are proven. LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET
# name a server that runs already. AURALINK_BIN names another binary.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export AURALINK_CACHE=${AURALINK_CACHE:-$HOME/.cache/auralink}
only=${1:-}
failed=0

mapfile -t files < <(compgen -G "tests/e2e/*$only*.test.mjs" | LC_ALL=C sort)
if [ ${#files[@]} -gt 0 ]; then
  printf -- '---- browsers, the Go SDK, the process: %d files\n' ${#files[@]}
  node --test --test-reporter=spec --test-concurrency=1 "${files[@]}" || failed=1
fi

mapfile -t python_files < <(compgen -G "tests/python/test_*$only*.py" | LC_ALL=C sort)
if [ ${#python_files[@]} -gt 0 ]; then
  printf -- '---- the Python SDK, the API, gRPC: %d files\n' ${#python_files[@]}
  node tests/e2e/fixture/with-server.mjs "$AURALINK_CACHE/test-venv/bin/python" -B -m pytest "${python_files[@]}" || failed=1
fi

if [ $((${#files[@]} + ${#python_files[@]})) = 0 ]; then
  echo "no end-to-end test file is called *$only*" >&2
  failed=1
fi
exit "$failed"
