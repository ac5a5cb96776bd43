#!/usr/bin/env bash
# Checks the rules of src/kernels/cuda/prim/launch.h for kernels that start before the one in front
# of them has ended: in the source, and in a compiled program where cuobjdump is at hand.
# Usage: scripts/check_launches.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/.."
folder=src/kernels/cuda
bad=0

# In the source. clang-format puts declarations into column 0 and the statements of a body that every
# thread comes by behind two spaces.
mapfile -t files < <(find $folder \( -name '*.cu' -o -name '*.cuh' \) | sort)
for file in "${files[@]}"; do
  awk -v file="$file" '
    function fail(text) { print file ":" at ": " text; bad = 1 }
    function finish() {
      if (kernel && !waits && !by_role && !launched_plainly[name])
        fail(name " does not call pdl_wait() on every path; where some threads wait for all, say so in a comment \"Waits by role: ...\" above it")
      kernel = 0
    }
    FNR == NR { if (match($0, /[a-z_]+<<</)) launched_plainly[substr($0, RSTART, RLENGTH - 3)] = 1; next }
    /^\/\// { comment = comment $0; next }
    /^[^ }#]/ && !header { header = " "; tagged = comment ~ /Waits by role:/; comment = "" }
    header { header = header $0 }
    header && /;$/ && !/{/ { header = "" }  # a declaration without a body
    header && /{$/ {
      finish()
      kernel = header ~ /__global__/
      by_role = tagged
      waits = left = waited = 0
      text = header
      gsub(/__launch_bounds__\([^{]*\) */, "", text)
      if (kernel && match(header, /[a-z_0-9]+\([^()]*( |\()[A-Za-z_:]+[^;]*{$/)) {
        name = header
        sub(/.*__global__/, "", name)
        gsub(/__launch_bounds__\(([^()]|\([^()]*\))*\)/, "", name)
        sub(/\(.*/, "", name)
        sub(/.*[ *]/, "", name)
      }
      at = FNR
      header = ""
      next
    }
    /^}/ { finish(); header = ""; next }
    /pdl_wait\(\);/ { waited = 1; if (/^  pdl_wait/ && !left) waits = 1 }
    /return/ { if (!waited) left = 1 }
    /pdl_trigger\(\);/ { if (!waited) { at = FNR; fail("pdl_trigger() in front of pdl_wait()") } }
    /__ldg|ld\.global\.nc|__restrict/ { if (file !~ /prim\/launch\.h$/) { at = FNR; fail("a non-coherent load: of weights by load_weight(), of all else by ordinary loads") } }
    END { finish(); exit bad }
  ' "$file" "$file" || bad=1
done
if grep -nE '__ldg|ld\.global\.nc|__restrict' $(find $folder -name '*.h' ! -path '*/prim/launch.h'); then
  echo "a non-coherent load outside prim/launch.h"
  bad=1
fi

# In the program: what the compiler made of it, in the order of addresses.
program=${1:-}
if [ -n "$program" ]; then
  cuobjdump=$(command -v cuobjdump || ls /usr/local/cuda/bin/cuobjdump 2>/dev/null || true)
  if [ -z "$cuobjdump" ]; then
    echo "check_launches.sh: no cuobjdump here, so $program was not looked at"
  else
    "$cuobjdump" -sass "$program" | awk '
      function fail(text) { print name ": " text; bad = 1 }
      function finish() {
        if (name == "") return
        ++kernels
        if (!waits && name !~ /fill_kernel/) fail("never waits (ACQBULK)")
        if (constant && name !~ /fp8_(few|many)_kernel/) fail(constant " non-coherent loads (LDG.CONSTANT)")
        if (early_loads && name !~ /(rms_norm|peer_sum_one_shot|index_decode|index_prefill)_kernel/)
          fail(early_loads " loads in front of the wait")
        if (early_stores) fail(early_stores " stores to global memory in front of the wait")
      }
      /Function : / { finish(); name = $NF ~ /^_ZN6fathom/ ? $NF : ""; waits = constant = early_loads = early_stores = 0; next }
      name == "" { next }
      / ACQBULK/ { waits = 1 }
      / PREEXIT/ { if (!waits) fail("lets the next kernel start (PREEXIT) in front of its wait") }
      / LDG\./ { if (/CONSTANT/) ++constant; if (!waits) ++early_loads }
      / (STG|ATOMG|REDG?|UTMASTG|UTMAREDG)\./ { if (!waits) ++early_stores }
      END {
        finish()
        if (kernels == 0) { print "no kernels found"; bad = 1 }
        exit bad
      }' || { echo "check_launches.sh: see above, of $program"; bad=1; }
  fi
fi
exit $bad
