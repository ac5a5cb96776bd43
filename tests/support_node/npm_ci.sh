#!/usr/bin/env bash
# Installs what the package-lock.json of a folder names, into that folder's node_modules; does
# nothing when that has been done. Usage: npm_ci.sh FOLDER
set -euo pipefail
cd "$1"
stamp=node_modules/.installed-lock.json
cmp -s package-lock.json "$stamp" && exit 0
if ! command -v npm >/dev/null; then
  echo "$1: npm is not installed, and the clients under test come from it (scripts/setup.sh --tests)" >&2
  exit 1
fi
# No install scripts: nothing but files is wanted from a package.
if ! npm ci --ignore-scripts --prefer-offline --no-audit --no-fund --loglevel=error; then
  echo "$1: npm ci failed: the packages of package-lock.json could not be installed" >&2
  exit 1
fi
cp package-lock.json "$stamp"
