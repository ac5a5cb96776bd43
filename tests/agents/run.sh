#!/usr/bin/env bash
# Agents from npm against the server, with a script in the model's place and, once each, with the
# bundled model. Takes minutes, and a gigabyte of packages.
# Usage: run.sh SCRIPTED_SERVER FATHOM [TEST FILE...]
set -euo pipefail
cd "$(dirname "$0")"
SCRIPTED_SERVER=$(realpath "$1")
FATHOM_BINARY=$(realpath "$2")
export SCRIPTED_SERVER FATHOM_BINARY
shift 2
for program in node npm nginx; do
  if ! command -v "$program" >/dev/null; then
    echo "agents: $program is not installed (scripts/setup.sh --tests installs it)" >&2
    exit 1
  fi
done
../support_node/npm_ci.sh "$PWD"
node --test --test-concurrency=1 "$@"
