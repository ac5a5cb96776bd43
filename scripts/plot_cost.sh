#!/usr/bin/env bash
# Draws what a million tokens cost by context, sparse beside dense, from the table that
# `fathom bench --device cuda --random 671b-layers=N` prints. Needs gnuplot (gnuplot-nox).
# Usage: scripts/plot_cost.sh TABLE.txt OUT.svg
set -euo pipefail
[ $# -eq 2 ] || { echo "usage: $0 TABLE.txt OUT.svg" >&2; exit 2; }
command -v gnuplot >/dev/null || { echo "plot_cost: gnuplot is missing (Debian: gnuplot-nox)" >&2; exit 1; }
table=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Columns: mode phase context tokens ms tok/s ms/layer whole-ms tok/s dollars. The batch drawn is 16.
for mode in sparse dense; do
  awk -v m=$mode '$1 == m && $2 == "prefill" && NF == 10 {print $3, $10}' "$table" | sort -n > "$work/prefill-$mode"
  awk -v m=$mode '$1 == m && $2 == "decode" && $4 == 16 && NF == 10 {print $3, $10}' "$table" | sort -n > "$work/decode-$mode"
done
gnuplot <<PLOT
set terminal svg size 900,380 font "sans,13" background "white"
set output "$out"
set logscale x 2
set xrange [2000:140000]
set xtics ("2K" 2048, "4K" 4096, "8K" 8192, "16K" 16384, "32K" 32768, "64K" 65536, "128K" 131072)
set xlabel "context (tokens)"
set ylabel "dollars a million tokens"
set yrange [0:*]
set key top left
set grid
set multiplot layout 1,2
set title "prefill (chunk of 4,096 that ends at the context)"
plot "$work/prefill-dense" with linespoints lw 2 pt 7 title "dense", "$work/prefill-sparse" with linespoints lw 2 pt 7 title "sparse (DSA)"
set title "decode, 16 sequences"
plot "$work/decode-dense" with linespoints lw 2 pt 7 title "dense", "$work/decode-sparse" with linespoints lw 2 pt 7 title "sparse (DSA)"
PLOT
