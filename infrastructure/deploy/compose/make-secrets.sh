#!/usr/bin/env bash
# Makes the secrets of compose.engines.yaml at random, once, in ./secrets (which git ignores). Those that are there are kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
umask 077
mkdir -p secrets

# secret NAME TEXT: plain files are mounted as they are, and AuraLink's user in the container must be able to read them.
secret() { [ -e "secrets/$1" ] || { printf '%s\n' "$2" >"secrets/$1"; chmod 644 "secrets/$1"; }; }
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

secret postgres_password "$(random)"
secret redis_password "$(random)"
secret postgres_url "postgres://auralink:$(cat secrets/postgres_password)@postgres:5432/auralink"
secret redis_url "redis://:$(cat secrets/redis_password)@redis:6379/0"
echo "the secrets are in $PWD/secrets"
