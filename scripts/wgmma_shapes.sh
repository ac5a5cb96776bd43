#!/usr/bin/env bash
# Writes src/kernels/cuda/prim/wgmma_shapes.h: the matrix instruction once for each width, since PTX
# wants every accumulator register spelled out. Another width is another number in the lists below.
# Usage: scripts/wgmma_shapes.sh [--check]   (--check: changes nothing, fails where the file differs)
set -euo pipefail
cd "$(dirname "$0")/.."
file=src/kernels/cuda/prim/wgmma_shapes.h

generate() {
  awk '
# Items first(i) .. of a list, joined by commas, in lines of at most `width` characters that follow
# one another after `separator`.
function join(count, prefix, suffix, width, separator,    i, item, line, all) {
  for (i = 0; i < count; ++i) {
    item = prefix i suffix (i + 1 < count ? "," : "")
    if (line == "") line = item
    else if (length(line) + 1 + length(item) <= width) line = line " " item
    else { all = all line separator; line = item }
  }
  return all line
}

# One specialisation. `kind`: fp8 (both operands from shared memory), bf16 (the same, either may be
# transposed) or registers (A from four registers, B may be transposed).
function specialise(kind, n,    d, a, b, predicate, operands, last, name, types, k, parameters) {
  d = n / 2  # accumulators of a thread; operands are numbered behind them
  name = kind == "fp8" ? "WgmmaFp8<" n ">" \
       : kind == "bf16" ? "WgmmaBf16<" n ", kTransposeA, kTransposeB>" \
       : "WgmmaBf16Registers<" n ", kTransposeB>"
  parameters = kind == "fp8" ? "" : kind == "bf16" ? "int kTransposeA, int kTransposeB" : "int kTransposeB"
  types = kind == "fp8" ? "f32.e4m3.e4m3" : "f32.bf16.bf16"
  k = kind == "fp8" ? 32 : 16
  if (kind == "registers") {
    a = "{%" d ", %" d + 1 ", %" d + 2 ", %" d + 3 "}"
    b = d + 4
    operands = "\"r\"(a[0]), \"r\"(a[1]), \"r\"(a[2]), \"r\"(a[3]), \"l\"(b), \"r\"(accumulate), \"n\"(kTransposeB)"
    last = ", %" b + 2
  } else {
    a = "%" d
    b = d + 1
    operands = "\"l\"(a), \"l\"(b), \"r\"(accumulate)"
    if (kind == "bf16") {
      operands = operands ", \"n\"(kTransposeA), \"n\"(kTransposeB)"
      last = ", %" b + 2 ", %" b + 3
    }
  }
  predicate = b + 1
  print ""
  print "template <" parameters ">"
  print "struct " name " {"
  print "  static __device__ __forceinline__ void run(float (&d)[" d "], " \
        (kind == "registers" ? "const uint32_t (&a)[4]" : "uint64_t a") ", uint64_t b, int accumulate) {"
  print "    asm volatile("
  print "        \"{\\n.reg .pred p;\\nsetp.ne.b32 p, %" predicate ", 0;\\n\""
  print "        \"wgmma.mma_async.sync.aligned.m64n" n "k" k "." types " {\""
  print "        \"" join(d, "%", "", 78, " \"\n        \"") " \""
  print "        \"}, " a ", %" b ", p, 1, 1" last ";\\n}\""
  print "        : " join(d, "\"+f\"(d[", "])", 84, "\n          ")
  print "        : " operands ");"
  print "  }"
  print "};"
}

BEGIN {
  print "// Made by scripts/wgmma_shapes.sh: change that, not this."
  print "//"
  print "// The tensor-core instruction by shape: one specialisation a width N, since PTX wants every"
  print "// accumulator register spelled out. Use through wgmma.h."
  print "#pragma once"
  print ""
  print "#include <cstdint>"
  print ""
  print "namespace fathom::cuda {"
  print ""
  print "template <int kN>"
  print "struct WgmmaFp8;  // both operands from shared memory, K-major"
  print "template <int kN, int kTransposeA, int kTransposeB>"
  print "struct WgmmaBf16;  // transpose 1: that operand lies MN-major in shared memory"
  print "template <int kN, int kTransposeB>"
  print "struct WgmmaBf16Registers;  // A from registers"
  print ""
  printf "// clang-format off"
  count = split("8 16 32 64 96 128 192 256", widths, " ")
  for (i = 1; i <= count; ++i) specialise("fp8", widths[i])
  for (i = 1; i <= count; ++i) specialise("bf16", widths[i])
  count = split("64 128 192 256", widths, " ")
  for (i = 1; i <= count; ++i) specialise("registers", widths[i])
  print ""
  print "// clang-format on"
  print "}  // namespace fathom::cuda"
}'
}

case "${1:-}" in
  "") generate >"$file" ;;
  --check)
    generate | diff -u "$file" - ||
      { echo "wgmma_shapes.sh: $file is not what this script writes" >&2; exit 1; } ;;
  *) echo "wgmma_shapes.sh: unknown argument $1 (--check)" >&2; exit 2 ;;
esac
