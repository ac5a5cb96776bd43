#!/usr/bin/env bash
# Configures the build folder of the Makefile's commands, quietly unless it fails. A new folder is
# for the program alone; -DFATHOM_TESTS=ON adds the tests to it, for good. Files are compiled in
# groups, since a first build is what these commands are for; whoever changes files often configures
# a folder of their own without FATHOM_UNITY (CONTRIBUTING.md).
# Usage: scripts/configure.sh BUILD_DIR [CMAKE ARGUMENT...]
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:?BUILD_DIR}
shift
[ -f "$build/CMakeCache.txt" ] || set -- -DFATHOM_TESTS=OFF "$@"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
cmake -S . -B "$build" -G Ninja -DFATHOM_UNITY=ON "$@" >"$log" 2>&1 || { cat "$log"; exit 1; }
grep -F -- '-- CUDA backend' "$log"
