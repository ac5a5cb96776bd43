#!/usr/bin/env bash
# The npm clients against the running server. Usage: run.sh [PROGRAM] [TEST FILE...]
# PROGRAM is the fathom to test (default: build/bin/fathom). Exit code 77: skipped.
set -euo pipefail
cd "$(dirname "$0")"
if [ $# -gt 0 ]; then
  FATHOM_BINARY=$(realpath "$1")
  export FATHOM_BINARY
  shift
fi
if ! command -v node >/dev/null; then
  echo "clients: SKIPPED: node is not installed (scripts/setup.sh --tests installs it)"
  exit 77
fi
../support_node/npm_ci.sh "$PWD"
node --test "$@"
