#!/usr/bin/env bash
# The chat page in Chromium against the running server. Usage: run.sh [PROGRAM] [TEST FILE...]
# PROGRAM is the fathom to test (default: build/bin/fathom). Exit code 77: skipped.
set -euo pipefail
cd "$(dirname "$0")"
if [ $# -gt 0 ]; then
  FATHOM_BINARY=$(realpath "$1")
  export FATHOM_BINARY
  shift
fi
if ! command -v node >/dev/null; then
  echo "web: SKIPPED: node is not installed (scripts/setup.sh --tests installs it)"
  exit 77
fi
if [ ! -x "${FATHOM_CHROMIUM:-/usr/bin/chromium}" ]; then
  echo "web: SKIPPED: chromium is not installed (scripts/setup.sh --tests installs it)"
  exit 77
fi
../support_node/npm_ci.sh "$PWD"
# One file at a time: each has a server and a browser of its own.
node --test --test-concurrency=1 "$@"
