#!/usr/bin/env bash
# A folder of src/ includes only itself and those below it (docs/architecture.md). Run by ctest.
set -euo pipefail
cd "$(dirname "$0")/../src"
layers=(cli runtime convert model comm kernels text io tensor numerics base)

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
done < <(grep -rE '^#include "[a-z]+/' --include='*.h' --include='*.cpp' . | sed 's|^\./||; s|"[^"]*$||' | sort -u)
exit $bad
