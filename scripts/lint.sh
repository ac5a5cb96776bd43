#!/usr/bin/env bash
# Layout, clang-tidy and cppcheck; silent and successful when the tree is clean.
set -euo pipefail
cd "$(dirname "$0")/.."
# Commands of its own: clang cannot read the headers that g++ has precompiled.
build=${1:-build}-lint
cmake -S . -B "$build" -G Ninja -DFATHOM_TESTS=OFF -DFATHOM_CUDA=OFF -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON >/dev/null
git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format --dry-run --Werror
git ls-files 'src/*.cpp' | xargs -P "$(nproc)" -n 4 clang-tidy -p "$build" --quiet \
  --extra-arg=-Wno-unknown-warning-option --warnings-as-errors='*' 2>/dev/null
cppcheck --quiet --error-exitcode=1 --std=c++20 --language=c++ --inline-suppr \
  --enable=warning,performance,portability --suppressions-list=.cppcheck-suppressions -Isrc src
