#!/usr/bin/env bash
# Everything that is to be known of an NVIDIA device, by one command: level 10 tests, tuning, benchmarks.
# Results are written to benches/results/<device>.json. What was done is not done again: run it again after a failure.
set -euo pipefail

usage() {
    cat <<'END'
Usage: benches/gpu.sh [options]

  --device cuda:N   the device [default: cuda:0]
  --model DIR       full-size model folder [default: sd21-random, made-up weights]
  --again           do everything again
  --emulated        on the emulated device, in miniature: to try this script; its figures say nothing of any device
  --dry-run         say what would be done
END
}

main() {
    device=cuda:0 model=sd21-random emulated=false dry=false again=false
    while [ $# -gt 0 ]; do
        case $1 in
            --device) device=${2:?--device takes cuda:N}; shift ;;
            --model) model=${2:?--model takes a folder}; shift ;;
            --again) again=true ;;
            --emulated) emulated=true ;;
            --dry-run) dry=true ;;
            --help | -h) usage; exit 0 ;;
            *) usage >&2; exit 2 ;;
        esac
        shift
    done
    cd "$(dirname "$0")/.."
    commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
    target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
    work=$target/gpu/$(if $emulated; then echo emulated; else echo "$device"; fi)-$commit
    tools=${CUDA_TOOLS:-$target/gpu/cuda-tools}
    nvrtc=$tools/nvidia/cuda_nvrtc/lib/libnvrtc.so.12
    engine=$target/release/dreamid-engine
    case $commit in *-dirty) again=true ;; esac # what was found before may be of other files
    if $again && ! $dry; then rm -rf "$work"; fi
    $dry || mkdir -p "$work"

    if ! $emulated; then check_driver; fi
    step "the compiler of kernels, NVRTC" need_nvrtc
    step "build" build
    if $emulated; then use_emulator; fi
    once tests "level 10 tests" level_10
    once tuned "tuning" tune
    if ! $emulated; then once full_size "benchmark at full size" bench_full_size; fi
    once miniature "benchmark of the miniature" bench_miniature
    if ! $emulated; then once simulated "the simulated bound, for comparison" simulate; fi
    step "results" collect
}

# ---- steps ----

check_driver() {
    if ! command -v nvidia-smi >/dev/null; then
        say "nvidia-smi is not here: without an NVIDIA driver nothing below can work. --emulated tries the script without a device"
        $dry || exit 1
    else
        run nvidia-smi --query-gpu=index,name,driver_version,memory.total --format=csv
    fi
}

# from the package index that pip is set up to use, by hash; else the system's own library
need_nvrtc() {
    if [ -e "$nvrtc" ]; then
        say "found: $nvrtc"
    elif run python3 -m pip install --quiet --no-deps --only-binary=:all: --require-hashes --target "$tools" --requirement tests/cuda-tools.txt; then
        say "installed in $tools"
    else
        local system
        system=$(ldconfig -p | sed -n 's/.*libnvrtc\.so\.12 .*=> //p' | head -n 1)
        [ -n "$system" ] || fail "there is no NVRTC: install pip, or the toolkit's libnvrtc.so.12, and run this again"
        run mkdir -p "$(dirname "$nvrtc")"
        run ln -s "$system" "$nvrtc"
    fi
}

build() {
    run cargo build --release
    if $emulated; then run cargo build --release --package cuda-emulator; fi
}

use_emulator() {
    run mkdir -p "$work/driver"
    run ln -sf "$target/release/libcuda_emulator.so" "$work/driver/libcuda.so"
    export LD_LIBRARY_PATH=$work/driver${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} CUEMU_DRIVER_VERSION=12090
    say "from here on libcuda is the emulated one"
}

level_10() {
    local wish=require
    if $emulated; then wish="emulated-few"; fi
    local tests=(env DREAMID_GPU="$wish" CUDA_TOOLS="$tools" cargo test --release --test gpu)
    if $dry; then run "${tests[@]}"; return; fi
    run "${tests[@]}" | tee "$work/tests.log"
    printf '"%s"\n' "$(grep '^gpu (level 10):.* passed' "$work/tests.log" | tail -n 1)" >"$1"
}

tune() {
    local arguments=(--device "$device" --nvrtc "$nvrtc" --out "$work/tiles.json")
    if $emulated; then
        run "$engine" tune "${arguments[@]}" --once
    else
        run "$engine" tune "${arguments[@]}" --model "$model"
        run "$engine" tune "${arguments[@]}"
    fi
    run cp "$work/tiles.json" "$1"
}

bench_full_size() {
    run "$engine" bench --device "$device" --nvrtc "$nvrtc" --tiles "$work/tiles.json" --model "$model" --profile --json "$1"
}

bench_miniature() {
    local few=()
    if $emulated; then few=(--repeat 1 --steps 2 --stages "encode,text,unet,vae-decode,generate"); fi
    run "$engine" bench --device "$device" --nvrtc "$nvrtc" --tiles "$work/tiles.json" --profile --json "$1" "${few[@]}"
}

simulate() {
    local which=
    case $(device_name) in
        *A100*) which=a100 ;;
        *H100*) which=h100 ;;
    esac
    if [ -n "$which" ]; then
        run "$engine" bench --simulate "$which" --json "$1"
    else
        say "there is none for this device"
        $dry || echo null >"$1"
    fi
}

# pieces of JSON beside each other: no other program is needed to put them together
collect() {
    local folder=benches/results file
    if $emulated; then folder=$target/gpu; fi
    if $dry; then say "$folder/<device>.json"; return; fi
    file=$folder/$(device_name | tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9\n' - | sed 's/^-*//; s/-*$//').json
    mkdir -p "$folder"
    {
        printf '{\n"commit": "%s",\n"emulated": %s' "$commit" "$emulated"
        for key in tests full_size miniature tuned simulated; do
            printf ',\n"%s": ' "$key"
            if [ -e "$work/$key.json" ]; then cat "$work/$key.json"; else echo null; fi
        done
        echo '}'
    } >"$file.part"
    mv "$file.part" "$file"
    say "wrote $file"
    if ! $emulated; then say "please commit it, or send it to the project"; fi
}

# ---- helpers ----

# the name that the engine reported in a benchmark
device_name() {
    if $dry; then echo "<device>"; return; fi
    sed -n 's/^ *"name": "\(.*\)",$/\1/p' "$work/miniature.json" | head -n 1
}

# step TITLE FUNCTION ARGUMENTS..
step() {
    say "== $1"
    "${@:2}"
}

# once KEY TITLE FUNCTION: FUNCTION writes the file that it is given, and is not called where that is there already
once() {
    local file=$work/$1.json
    if [ -e "$file" ]; then
        say "== $2: done before"
        return
    fi
    say "== $2"
    "$3" "$file.new"
    $dry || mv "$file.new" "$file"
}

run() {
    printf '+ %s\n' "$*" >&2
    $dry || "$@"
}

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

main "$@"
