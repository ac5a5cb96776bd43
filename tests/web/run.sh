#!/usr/bin/env bash
# The chat page in Chromium against the running server. Usage: run.sh [PROGRAM] [TEST FILE...]
# PROGRAM is the fathom to test (default: build/bin/fathom). Exit code 77: skipped, never when CI is set.
set -euo pipefail
cd "$(dirname "$0")"
if [ $# -gt 0 ]; then
  FATHOM_BINARY=$(realpath "$1")
  export FATHOM_BINARY
  shift
fi
# A machine of a developer may lack the tools; continuous integration installs them, and there a test
# that does not run is a failure.
missing() {
  echo "web: $1 is not installed (scripts/setup.sh --tests installs it)"
  [ -n "${CI:-}" ] && exit 1
  exit 77
}
command -v node >/dev/null || missing node
[ -x "${FATHOM_CHROMIUM:-/usr/bin/chromium}" ] || missing chromium
../support_node/npm_ci.sh "$PWD"
# Two files at a time: each has a server and a browser of its own, and waits for them half of its time.
node --test --test-concurrency=2 "$@"
