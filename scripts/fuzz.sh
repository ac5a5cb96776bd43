#!/usr/bin/env bash
# Builds the libFuzzer targets of fuzz/ with clang and lets each run for a while, from the kept
# inputs of tests/data/corpus on. What a target finds stays in BUILD_DIR/corpus; an input that
# breaks a promise is written to BUILD_DIR and named. Usage: scripts/fuzz.sh BUILD_DIR [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build-fuzz}
seconds=${2:-60}
scripts/setup.sh --dev
cmake -S . -B "$build" -G Ninja -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DFATHOM_FUZZ=ON \
  -DFATHOM_UNITY=ON -DFATHOM_TESTS=OFF -DFATHOM_CUDA=OFF -DCMAKE_BUILD_TYPE=RelWithDebInfo >/dev/null
cmake --build "$build" --target fuzzers -j "$(nproc)"
for source in fuzz/*_fuzz.cpp; do
  name=$(basename "$source" .cpp)
  found=$build/corpus/${name%_fuzz}
  mkdir -p "$found"
  echo "$name: $seconds s"
  "$build/bin/$name" -max_total_time="$seconds" -artifact_prefix="$build/" -rss_limit_mb=4096 -verbosity=0 \
    "$found" "tests/data/corpus/${name%_fuzz}"
done
