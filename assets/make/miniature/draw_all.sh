#!/bin/sh
# Draws all 5,000 people, 250 to a file, two processes; files already there are skipped.  draw_all.sh OUT_DIR
out=${1:?output folder}
mkdir -p "$out"
seq 0 250 4750 | xargs -P 2 -I{} sh -c '[ -f "$0/$(printf %04d $1).rgb" ] || node draw.mjs "$0/$(printf %04d $1)" $1 250' "$out" {}
