#!/usr/bin/env bash
# Prints what the main loops of the tensor-core products consist of, as machine code for sm_80 and sm_90, one row for each kernel, and
# compares it with kernels/main_loops.csv. Needs no GPU: NVRTC, ptxas and nvdisasm are fetched as the tests fetch them.
set -euo pipefail
cd "$(dirname "$0")/.."
exec cargo test --quiet --test kernels products -- --nocapture
