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
        if grep -q '^skipped: ' "$logs/$name.log"; then
            rows+=("$name|not run|$(sed -n 's/^skipped: //p' "$logs/$name.log" | head -1)")
            return
        fi
        rows+=("$name|passed|$((SECONDS - start)) s $(sed -n 's/^remark: //p' "$logs/$name.log" | tail -1)")
    else
        rows+=("$name|FAILED|see $logs/$name.log")
        failed=1
    fi
}

not_yet() { rows+=("$1|not run|$2"); }

# The device tests of one package under compute-sanitizer: sanitize TOOL PACKAGE FEATURE TEST.
sanitize() {
    local binary
    binary=$(cargo test -p "$2" --features "$3" --test "$4" --target-dir target/cuda --no-run 2>&1 |
        sed -n "s/.*(\(.*$4-[0-9a-f]*\))\$/\1/p") || return 1
    [ -n "$binary" ] || return 1
    compute-sanitizer --tool "$1" --error-exitcode 1 "$binary" --test-threads 1
}

# The embedded model fine-tuned on GPU and CPU: perplexities within 1 %.
finetune_on_both() {
    local device perplexity work status=0
    work=$(mktemp -d)
    for device in cpu cuda; do
        cargo run --release -p edkm-cli --features cuda --target-dir target/cuda -- \
            finetune --device "$device" --steps 100 --out "$work/$device" --json > "$work/$device.json" || status=1
        perplexity=$(tail -1 "$work/$device.json" | grep -o '"perplexity_after":[0-9.]*' | cut -d: -f2)
        echo "$device: perplexity $perplexity"
        echo "${perplexity:-0}" >> "$work/perplexities"
    done
    rm -rf "${work:?}/cpu" "${work:?}/cuda"
    [ "$status" = 0 ] || return 1
    awk '{ p[NR] = $1 } END {
        printf "remark: perplexity %s on the CPU, %s on the GPU\n", p[1], p[2]
        exit !(p[1] > 0 && p[2] / p[1] < 1.01 && p[1] / p[2] < 1.01)
    }' "$work/perplexities"
}

nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv 2> /dev/null || echo "no GPU: nvidia-smi does not answer"
check device-code nvcc scripts/check-device-code.sh
check ops-on-host c++ cargo test -p edkm-cuda --test device
check plugin-on-host c++ scripts/cuda-on-host.sh target/cuda-stand-in
check ops-on-gpu nvidia-smi cargo test -p edkm-cuda --features driver --test device --target-dir target/cuda
check plugin-on-gpu nvidia-smi cargo test -p dfdx-edkm --features cuda --test cuda --target-dir target/cuda
check plugin-precision nvidia-smi cargo test -p dfdx-edkm --features cuda --test cuda_precision --target-dir target/cuda
check golden-llama nvidia-smi cargo test -p edkm-tests --features cuda --test llama_golden --target-dir target/cuda -- --nocapture
check finetune-embedded nvidia-smi finetune_on_both
for tool in memcheck racecheck initcheck; do
    check "ops-$tool" compute-sanitizer sanitize "$tool" edkm-cuda driver device
done
check plugin-memcheck compute-sanitizer sanitize memcheck dfdx-edkm cuda cuda
on_cpu="\`edkm bench\` measures the CPU alone"
not_yet bench-cluster "$on_cpu"
not_yet llama-7b-step "$on_cpu"
not_yet decoder-layer-table "$on_cpu"
not_yet pinned-copies "saved tensors are copied in turn, not yet from pinned memory beside the computation"
not_yet several-gpus "there are no learners on several GPUs yet"

printf '\n%-20s %-8s %s\n' check result remark
for row in "${rows[@]}"; do
    IFS='|' read -r name result remark <<< "$row"
    printf '%-20s %-8s %s\n' "$name" "$result" "$remark"
done
exit "$failed"
