#!/usr/bin/env bash
# A folder of src/ includes only itself and those below it, and CUDA is seen where
# docs/architecture.md allows it. Run by ctest.
set -euo pipefail
cd "$(dirname "$0")/../src"
layers=(cli server loadgen eval selfcheck bench runtime cache convert model comm kernels text io tensor numerics base)

rank() { for i in "${!layers[@]}"; do [ "${layers[$i]}" = "$1" ] && { echo "$i"; return; }; done; echo -1; }

bad=0
while IFS=: read -r file line; do
  from=$(rank "${file%%/*}")
  target=${line#*\"}
  to=$(rank "${target%%/*}")
  if [ "$from" -lt 0 ] || [ "$to" -lt 0 ] || [ "$to" -lt "$from" ]; then
    echo "src/$file includes $target: ${target%%/*} is not below ${file%%/*}"
    bad=1
  fi
done < <(grep -rE '^#include "[a-z]+/' --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' . | sed 's|^\./||; s|"[^"]*$||' | sort -u)

# CUDA stays where it belongs.
while IFS=: read -r file line; do
  case "$file" in
    kernels/cuda/* | bench/cuda/* | runtime/graph_runner.cpp | tensor/buffer.cpp) ;;
    *) echo "src/$file sees CUDA: ${line}"; bad=1 ;;
  esac
done < <(grep -rE '^#include [<"](cuda|kernels/cuda/|bench/cuda/)' --include='*.h' --include='*.cpp' . | sed 's|^\./||')
exit $bad
