#!/usr/bin/env bash
# The first five minutes: converts the bundled checkpoint as DeepSeek's release does, answers a few
# prompts with speed figures, and goes on as a chat when somebody is at the terminal.
set -euo pipefail
cd "$(dirname "$0")/.."
fathom=${1:-build}/bin/fathom
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

step() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }
[ -t 1 ] || step() { printf '\n$ %s\n' "$*"; "$@"; }

echo "fathom: DeepSeek-V3.2 on this machine, with the bundled 26.5 M parameter checkpoint"
step "$fathom" convert --hf-ckpt-path models/small --save-path "$work/demo" --n-experts 16 --model-parallel 1

cat > "$work/prompts.txt" <<'PROMPTS'
Hello!

Tell me a story about a little elephant.

The pass key of Alice is 48213. The room number of Hugo is 2291. What is the pass key of Alice?
PROMPTS
step "$fathom" generate --ckpt-path "$work/demo" --input-file "$work/prompts.txt" \
  --temperature 0 --max-new-tokens 100

if [ -t 0 ] && [ -t 1 ]; then
  echo
  echo "Now it is your turn (/help lists the commands, /exit ends)."
  "$fathom" chat
fi
