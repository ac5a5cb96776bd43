#!/usr/bin/env bash
# Builds the program and all tests, runs them, and closes with ctest's own summary.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}
scripts/setup.sh --tests
cmake -S . -B "$build" -G Ninja -DFATHOM_TESTS=ON
cmake --build "$build" -j "$(nproc)"
ctest --test-dir "$build" --output-on-failure
