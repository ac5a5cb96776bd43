#!/usr/bin/env bash
# Proves the CUDA backend on the GPU of this machine (H100, H200): builds, then tests, sanitizers,
# self-check and kernel times, each under a time limit; closes with a table. Exit code 1 when
# anything failed. Without a GPU it says so, runs what skips by itself, and succeeds.
# Usage: scripts/gpu_check.sh [--build FOLDER] [--packages FOLDER] [--prebuilt FOLDER]
#   --build FOLDER     where to build (default: build)
#   --packages FOLDER  build with the libraries in FOLDER's .deb files, on a machine that has none of
#                      them installed (scripts/setup.sh --download FOLDER fetches them elsewhere)
#   --prebuilt FOLDER  build nothing: FOLDER/bin has fathom, test_cuda, test_runtime and test_selfcheck, built from
#                      sources at this very path (the tests find their data by it)
set -euo pipefail
cd "$(dirname "$0")/.."

build=build packages="" prebuilt=""
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build=${2:?--build needs a folder}; shift 2 ;;
    --packages) packages=${2:?--packages needs a folder}; shift 2 ;;
    --prebuilt) prebuilt=${2:?--prebuilt needs a folder}; shift 2 ;;
    *) echo "gpu_check.sh: unknown argument $1 (--build FOLDER, --packages FOLDER, --prebuilt FOLDER)" >&2; exit 2 ;;
  esac
done

logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
rows=() failed=0

# record NAME VERDICT SECONDS [WHY]
record() {
  rows+=("$(printf '%-12s %-8s %5s s  %s' "$1" "$2" "$3" "${4:-}")")
  [ "$2" != FAILED ] || failed=1
}

# limited NAME LIMIT COMMAND...: runs it into a log; its exit code in $code, its time in $seconds.
limited() {
  local name=$1 limit=$2 begin=$SECONDS
  shift 2
  printf '\n== %s: %s\n' "$name" "$*"
  code=0
  timeout --kill-after=5 "$limit" "$@" >"$logs/$name" 2>&1 || code=$?
  seconds=$((SECONDS - begin))
}

# judge NAME: verdict from the exit code; the end of the log is for whoever has to find out why.
judge() {
  case $code in
    0) record "$1" passed "$seconds" "$(grep -E '^\[  (PASSED|SKIPPED) +\] [0-9]+ test|^PASSED' "$logs/$1" | tr '\n' ' ' || true)" ;;
    124 | 137) tail -n 30 "$logs/$1"; record "$1" FAILED "$seconds" "ran past its time limit" ;;
    *) grep -E '^\[  FAILED|Failure$|FAILED ' "$logs/$1" | head -n 40 || true
       tail -n 40 "$logs/$1"
       record "$1" FAILED "$seconds" "exit code $code" ;;
  esac
}

finish() {
  printf '\n%-12s %-8s %7s\n' step verdict time
  printf '%s\n' "${rows[@]}"
  printf 'total: %d s\n' "$SECONDS"
  exit $failed
}

# unpack FOLDER: its packages below the build folder, where the build and its programs find them.
unpack() {
  local root usr libraries
  rm -rf "$build/packages"
  mkdir -p "$build/packages"
  root=$(cd "$build/packages" && pwd)
  usr=$root/usr
  libraries=$usr/lib/$(uname -m)-linux-gnu
  for deb in "$1"/*.deb; do
    [ -e "$deb" ] || { echo "gpu_check.sh: no .deb files in $1" >&2; exit 1; }
    dpkg -x "$deb" "$root"
  done
  export CMAKE_PREFIX_PATH=$usr PKG_CONFIG_SYSROOT_DIR=$root
  export PKG_CONFIG_LIBDIR=$libraries/pkgconfig:$usr/share/pkgconfig
  export LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} PATH=$PATH:$usr/bin
}

if [ -n "$prebuilt" ]; then
  bin=$prebuilt/bin
else
  PATH=$PATH:/usr/local/cuda/bin
  for tool in cmake ninja c++ nvcc; do
    command -v "$tool" >/dev/null ||
      { echo "gpu_check.sh: $tool is missing; scripts/setup.sh --tests installs all but CUDA 13's nvcc (or use --prebuilt)" >&2; exit 1; }
  done
  [ -z "$packages" ] || unpack "$packages"
  limited configure 60 cmake -S . -B "$build" -G Ninja -DFATHOM_TESTS=ON -DFATHOM_CUDA=ON
  [ "$code" -eq 0 ] ||
    echo "gpu_check.sh: where libraries are missing, scripts/setup.sh --tests installs them; without a network use --packages" >&2
  judge configure
  [ $failed -eq 0 ] || finish
  limited build 600 ninja -C "$build" fathom test_cuda test_runtime test_selfcheck
  judge build
  [ $failed -eq 0 ] || finish
  bin=$build/bin
fi
for program in fathom test_cuda test_runtime test_selfcheck; do
  [ -x "$bin/$program" ] || { echo "gpu_check.sh: $bin/$program is missing" >&2; exit 1; }
done

# Asking for the GPU by name is refused, with the reason, where there is none.
gpu=1
limited gpu 60 "$bin/fathom" selfcheck --ckpt-path tests/data/tiny --device cuda --only text
if [ "$code" -ne 0 ] && grep -q -e '--device cuda: ' "$logs/gpu"; then
  gpu=0
  record gpu "skipped" "$seconds" "$(grep -o -e '--device cuda: .*' "$logs/gpu" | cut -d' ' -f3-)"
else
  judge gpu
  [ $failed -eq 0 ] || finish
fi

# The rules for kernels that start before the one in front of them has ended, as compiled.
limited launches 60 scripts/check_launches.sh "$bin/test_cuda"
judge launches

limited kernels 200 "$bin/test_cuda" --gtest_brief=1
judge kernels
limited model 200 "$bin/test_runtime" '--gtest_filter=*Gpu*' --gtest_brief=1
judge model
limited proofs 100 "$bin/test_selfcheck" '--gtest_filter=*Gpu*' --gtest_brief=1
judge proofs

if [ $gpu -eq 0 ]; then
  printf "\nno usable GPU here: nothing of the CUDA backend was run, only what needs none\n"
  finish
fi

limited selfcheck 100 "$bin/fathom" selfcheck --ckpt-path models/small --device cuda
judge selfcheck

# Two GPUs as ranks of one model: they choose alike and end every sum with the same bits.
limited pair 100 "$bin/fathom" selfcheck --ckpt-path models/small --device cuda --tensor-parallel-size 2 --only ranks
if [ "$code" -ne 0 ] && why=$(grep -o '2 ranks need as many GPUs.*' "$logs/pair"); then
  record pair "skipped" "$seconds" "$why"
else
  judge pair
fi

# Small shapes of every family: a sanitizer slows a kernel a hundredfold.
small='RouteTest.TiesGoToTheLowerId:MoeTest.Permute:NormTest.EmbeddingAndGatheredRows'
small+=':NormTest.LatentRows:NormTest.IndexQueries*:IndexScoresTest.OneTokenAtPageBorders'
small+=':MhaTest.CausalFromOneKeyOn:Fp8GemmTest.NoRowsLaunchNothing'
small+=':TopkTest.FewScores:SampleTest.FewTokens'
# Not for racecheck: it does not see what a warp hands over by one lane's arrival at an mbarrier, or
# two warpgroups by a barrier that the third takes no part in; and longer rows take it minutes.
more=':SampleTest.Ties:TopkTest.OddCounts:MlaDecodeTest.DenseFromOneKeyOn'
more+=':MlaPrefillTest.DenseFromOneKeyOn:OpByOp.SmallDims*'
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
for tool in memcheck racecheck; do
  if [ -z "$sanitizer" ]; then
    record $tool "skipped" 0 "compute-sanitizer is not on the PATH"
    continue
  fi
  tests=$small
  [ $tool = racecheck ] || tests+=$more
  limited $tool 120 "$sanitizer" --tool $tool --error-exitcode 99 "$bin/test_cuda" "--gtest_filter=$tests" --gtest_brief=1
  # Where it may not trace other programs it ends at once, without its summary.
  if [ "$code" -ne 0 ] && [ "$code" -ne 124 ] && [ "$code" -ne 137 ] && ! grep -q 'SUMMARY' "$logs/$tool"; then
    record $tool "skipped" "$seconds" "compute-sanitizer does not start: $(head -n 1 "$logs/$tool" | cut -c1-80)"
  else
    judge $tool
  fi
done

limited bench 120 "$bin/fathom" bench kernels
[ "$code" -ne 0 ] || cat "$logs/bench"
judge bench
finish
