#!/usr/bin/env bash
# Makes the packs and the expected outputs of the parity tests anew, with the reference implementations (torch, transformers: about 3 GB to
# download, once). `make test` does not need it: what it makes is committed. Names of families limit it: scripts/parity.sh translation
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${AURALINK_CACHE:-$HOME/.cache/auralink}
venv=$cache/parity-venv
list=$root/ai/parity/requirements.txt
stamp=$venv/auralink-requirements

if ! cmp --silent "$list" "$stamp" 2>/dev/null; then
  echo "parity: pip installs the reference implementations into $venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$list"
  cp "$list" "$stamp"
fi
cd "$root/ai"
exec "$venv/bin/python" -m parity "$@"
