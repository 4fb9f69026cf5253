#!/usr/bin/env bash
# gpu-checks.sh: everything that can be checked on a machine with a GPU and a CUDA 13.0 toolkit. Prints a table of checks and results, and says what was
# not run and why. Exits with 1 when a check failed. Logs are left in target/gpu-checks.
set -uo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never
logs=target/gpu-checks
mkdir -p "$logs"
rows=()
failed=0

# check NAME NEEDED COMMAND...: runs the command if the program NEEDED is there.
check() {
    local name=$1 needed=$2 start=$SECONDS
    shift 2
    if ! command -v "$needed" > /dev/null; then
        rows+=("$name|not run|no $needed on this machine")
    elif "$@" > "$logs/$name.log" 2>&1; then
        rows+=("$name|passed|$((SECONDS - start)) s")
    else
        rows+=("$name|FAILED|see $logs/$name.log")
        failed=1
    fi
}

not_yet() { rows+=("$1|not run|$2"); }

# One binary of the device tests, for the runs that need its path.
sanitize() {
    local binary
    binary=$(cargo test -p edkm-cuda --features driver --test device --target-dir target/cuda --no-run 2>&1 |
        sed -n 's/.*(\(.*device-[0-9a-f]*\))$/\1/p') || return 1
    [ -n "$binary" ] || return 1
    compute-sanitizer --tool "$1" --error-exitcode 1 "$binary" --test-threads 1
}

nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv 2> /dev/null || echo "no GPU: nvidia-smi does not answer"
check device-code nvcc scripts/check-device-code.sh
check ops-on-host c++ cargo test -p edkm-cuda --test device
check ops-on-gpu nvidia-smi cargo test -p edkm-cuda --features driver --test device --target-dir target/cuda
check sanitizer-memcheck compute-sanitizer sanitize memcheck
check sanitizer-racecheck compute-sanitizer sanitize racecheck
check sanitizer-initcheck compute-sanitizer sanitize initcheck
unwired="the dfdx plugin has no CUDA device yet"
not_yet golden-vectors "$unwired"
not_yet finetune-stories260k "$unwired"
not_yet bench-cluster "$unwired"
not_yet llama-7b-step "$unwired"
not_yet decoder-layer-table "$unwired"
not_yet store-from-gpu "$unwired"

printf '\n%-22s %-8s %s\n' check result remark
for row in "${rows[@]}"; do
    IFS='|' read -r name result remark <<< "$row"
    printf '%-22s %-8s %s\n' "$name" "$result" "$remark"
done
exit "$failed"
