#!/usr/bin/env bash
# Installs what a build needs, from Debian's packages; says what and why, and does nothing when all
# is there. Usage: scripts/setup.sh [--tests] [--dev] [--download FOLDER]
#   --download FOLDER  installs nothing: fetches the libraries' packages as files into FOLDER, for
#                      scripts/gpu_check.sh --packages on a machine that has a compiler, cmake,
#                      ninja and nvcc, but neither these libraries nor a network
set -euo pipefail

# package: why
build_packages=(
  "g++:the compiler"
  "cmake:the build system"
  "ninja-build:runs the build on all cores"
  "pkg-config:finds libraries"
  "libcli11-dev:command line"
  "nlohmann-json3-dev:JSON of configs, tokenizers and messages"
  "libfmt-dev:text formatting"
  "libpcre2-dev:the tokenizer's regular expressions"
  "libedit-dev:line editing in chat"
  "libnuma-dev:memory placement on large machines"
  "libboost1.81-dev:HTTP (Beast and Asio)"
  "prometheus-cpp-dev:metrics"
  "libspdlog-dev:logs"
  "zlib1g-dev:request bodies in gzip and deflate"
  "libzstd-dev:request bodies in zstd"
  "libopenmpi-dev:several machines (Open MPI; a build without it is for one machine)"
  "openmpi-bin:starts processes on several machines (mpirun)"
)
test_packages=(
  "libgtest-dev:unit tests"
  "libgmock-dev:unit tests"
  "nodejs:the server's real clients (openai, @anthropic-ai/sdk)"
  "npm:installs them"
  "chromium:tests of the chat page"
  "nginx-light:the server behind a proxy"
  "curl:the examples of docs/server.md"
  "clang-format:layout"
)
dev_packages=(
  "clang:fuzz targets"
  "libclang-rt-14-dev:sanitizers and libFuzzer for clang"
  "clang-tidy:lint"
  "cppcheck:lint"
  "libbenchmark-dev:kernel benchmarks"
  "libdnnl-dev:yardstick of the GEMM benchmarks"
  "ccache:warm rebuilds"
)

# What the libraries above load or ask CMake for, on a machine that has none of them.
needed_by_libraries=(
  libfmt9 libpcre2-8-0 libedit2 libbsd0 libmd0 libnuma1 libspdlog1.10
  libprometheus-cpp-core1.0 libprometheus-cpp-pull1.0 libprometheus-cpp-push1.0
  civetweb libcivetweb1 libcivetweb-dev libcurl4-openssl-dev zlib1g-dev zlib1g libzstd1
  pkgconf pkgconf-bin libpkgconf3
)

wanted=("${build_packages[@]}")
download=""
while [ $# -gt 0 ]; do
  case "$1" in
    --tests) wanted+=("${test_packages[@]}") ;;
    --dev) wanted+=("${test_packages[@]}" "${dev_packages[@]}") ;;
    --download) download=${2:?--download needs a folder}; shift ;;
    *) echo "setup.sh: unknown argument $1 (--tests, --dev, --download FOLDER)" >&2; exit 2 ;;
  esac
  shift
done

if [ -n "$download" ]; then
  names=("${needed_by_libraries[@]}")
  for entry in "${build_packages[@]}" "${test_packages[@]}"; do
    case "$entry" in lib* | nlohmann* | prometheus*) names+=("${entry%%:*}") ;; esac
  done
  mkdir -p "$download"
  cd "$download"
  apt-get download -qq "${names[@]}"
  exit
fi

missing=()
for entry in "${wanted[@]}"; do
  package=${entry%%:*}
  case $package in  # often installed from elsewhere
    nodejs) command -v node >/dev/null && continue ;;
    npm | curl) command -v "$package" >/dev/null && continue ;;
  esac
  if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed"; then
    missing+=("$package")
    echo "setup: installing $package (${entry#*:})"
  fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
  echo "setup: this is not a Debian system; please install by hand: ${missing[*]}" >&2
  exit 1
fi
run=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup: needs root or sudo to install: ${missing[*]}" >&2; exit 1; }
  run=(sudo)
fi
export DEBIAN_FRONTEND=noninteractive
"${run[@]}" apt-get update -qq
"${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
