#!/usr/bin/env bash
# Layout, layers, clang-tidy and cppcheck; silent and successful when the tree is clean.
# Usage: scripts/lint.sh BUILD_DIR | --quick   --quick: layout and layers alone, in seconds (ctest)
set -euo pipefail
cd "$(dirname "$0")/.."

find src tests bench fuzz \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 clang-format --dry-run --Werror
scripts/check_layers.sh
[ "${1:-}" = --quick ] && exit

# clang's own commands and precompiled headers, and the files of a folder eight at a time: reading
# headers is most of what clang-tidy does. (A group includes its .cpp files, so one check is left out.)
build=${1:-build}-lint
cmake -S . -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DFATHOM_UNITY=ON \
  -DFATHOM_TESTS=OFF -DFATHOM_CUDA=OFF >/dev/null
cmake --build "$build" --target fathom_precompiled_light fathom_precompiled_program >/dev/null
grep -o '"file": "[^"]*"' "$build/compile_commands.json" | cut -d'"' -f4 | sort -u |
  grep -E '/Unity/|/src/' |
  xargs -P "$(nproc)" -n 1 clang-tidy -p "$build" --quiet --checks=-bugprone-suspicious-include --warnings-as-errors='*' 2>/dev/null
cppcheck --quiet --error-exitcode=1 -j "$(nproc)" --std=c++20 --language=c++ --inline-suppr \
  --enable=warning,performance,portability --suppressions-list=.cppcheck-suppressions -Isrc src
