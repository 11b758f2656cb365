#!/usr/bin/env bash
# Makes the packs and the expected outputs of the parity tests again, with the references themselves (torch, transformers,
# sherpa-onnx and others: some 6 GB in the cache folder). `make test` needs none of it: what is made here is committed.
#   scripts/parity.sh [FAMILY...]
set -euo pipefail
cd "$(dirname "$0")/../ai"
cache="${AURALINK_CACHE:-$HOME/.cache/auralink}"
venv="$cache/parity-venv"
wanted="$(sha256sum parity/requirements.txt)"
if [ "$(cat "$venv/requirements.sha256" 2>/dev/null)" != "$wanted" ]; then
  echo "parity: installing the references into $venv (once)"
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r parity/requirements.txt
  echo "$wanted" > "$venv/requirements.sha256"
fi
HF_HUB_OFFLINE=1 exec "$venv/bin/python" -m parity "$@"
