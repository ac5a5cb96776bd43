#!/usr/bin/env bash
# Builds the program and all tests, runs them, and closes with ctest's own summary.
# Usage: scripts/test.sh BUILD_DIR [--long]   --long: the long ones instead of all others
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
select=(-LE long) targets=(all)
[ "${2:-}" = --long ] && select=(-L long) targets=(all scripted_server)
scripts/setup.sh --tests
scripts/configure.sh "$build" -DFATHOM_TESTS=ON
cmake --build "$build" -j "$(nproc)" --target "${targets[@]}"
ctest --test-dir "$build" --output-on-failure -j "$(nproc)" "${select[@]}"
