#!/usr/bin/env bash
# gpu-checks.sh: everything that can be checked on a machine with a GPU. Prints a table of checks and results, and says what was not run and why. Exits with 1
# when a check failed.
#
#   scripts/gpu-checks.sh                builds with cargo and a CUDA 13.0 toolkit, and checks
#   scripts/gpu-checks.sh --build DIR    builds what the checks run into DIR (about 45 MB), where there is a toolkit and need be no GPU (scripts/cuda-toolkit.sh)
#   scripts/gpu-checks.sh --built DIR    checks with that, on another machine: without cargo, with the CUDA libraries 13.0 and this repository's scripts
#
# Reference files are those of ../shared, or of the folders that EDKM_GOLDEN and EDKM_MODELS name. GPU_CHECKS_SKIP: names of checks to leave out; GPU_CHECKS_ONLY:
# of those to run. GPU_CHECKS_SECONDS: after which a program is ended (200). GPU_CHECKS_TOTAL: after which no further check goes on, and the table is printed
# (where a machine is lent for some minutes). GPU_CHECKS_LOGS: where logs are left (target/gpu-checks).
set -uo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never
logs=${GPU_CHECKS_LOGS:-target/gpu-checks}
mkdir -p "$logs"
rows=()
failed=0
built=

# Programs and tests: name, package and features of each test, and the library whose own tests they are, if they are.
tests="device:edkm-cuda:driver cuda:dfdx-edkm:cuda cuda_precision:dfdx-edkm:cuda llama_golden:edkm-tests:cuda layer_bench:edkm-tests:cuda"
tests+=" inference:edkm-llama:cuda:edkm_llama nccl:dfdx-edkm:nccl"
target=target/cuda

# Whether there is NCCL to link with.
links_nccl() {
    local root=${CUDA_PATH:-/usr/local/cuda}
    "${CC:-cc}" -shared -x c /dev/null -L"$root/lib64" -L"$root/lib" -lnccl -o /dev/null 2> /dev/null
}

# The program of one test, built if need be: test_program NAME
test_program() {
    local name package features library which
    if [ -n "$built" ]; then
        echo "$built/$1"
        return
    fi
    IFS=: read -r name package features library <<< "$(tr ' ' '\n' <<< "$tests" | grep "^$1:")"
    which=(--test "$name")
    [ -z "$library" ] || which=(--lib)
    cargo test --release -p "$package" --features "$features" "${which[@]}" --target-dir "$target" --no-run 2>&1 | tee "$logs/build-$name.log" |
        sed -n "s/.*(\(.*${library:-$name}-[0-9a-f]*\))\$/\1/p" | grep . || { echo "$name could not be built: see $logs/build-$name.log" >&2; return 1; }
}

# Builds all of it into a folder: build DIR
build() {
    local dir=$1 entry name out
    mkdir -p "$dir/headers"
    dir=$(cd "$dir" && pwd)
    # dfdx's kernels for any GPU from Ampere on, whatever this machine has: the driver compiles them for a newer one
    export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
    cargo build --release -p edkm-cli --features cuda --target-dir "$target" || return 1
    cp "$target/release/edkm" "$dir/" || return 1
    for entry in $tests; do
        name=${entry%%:*}
        if [ "$name" = nccl ] && ! links_nccl; then
            echo "nccl: not built, there is no NCCL to link with"
            continue
        fi
        cp "$(test_program "$name")" "$dir/$name" || return 1
    done
    strip "$dir"/* 2> /dev/null
    # dfdx compiles some kernels when they are first used, from headers at the paths of its build
    for out in "$target"/release/build/dfdx-*/out; do
        grep -q CUDA_INCLUDE_DIR "$out/../output" 2> /dev/null || continue
        cp "$out"/*.cuh "$dir/headers/"
        readlink -f "$out"
    done > "$dir/outs"
    sed -n 's/^cargo:rustc-env=CUDA_INCLUDE_DIR=//p' "$target"/release/build/dfdx-*/output | sort -u > "$dir/includes"
    echo "built: scripts/gpu-checks.sh --built $dir"
}

# Makes this machine look like the one of the build: use_built DIR
use_built() {
    local path headers
    built=$(cd "$1" && pwd) || exit 2
    [ -x "$built/edkm" ] || { echo "$built holds no program: scripts/gpu-checks.sh --build DIR makes it" >&2; exit 2; }
    for path in /usr/local/cuda/lib64 /usr/local/cuda/targets/x86_64-linux/lib /usr/local/nvidia/lib64 \
        $(python3 -c 'import sysconfig, glob; print(*glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib"))' 2> /dev/null); do
        if [ -d "$path" ]; then export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$path; fi
    done
    headers=$(dirname "$(readlink -f "$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)")")/../include
    while read -r path; do
        [ -d "$path" ] || { mkdir -p "$path" && cp "$built"/headers/*.cuh "$path"; }
    done < "$built/outs"
    while read -r path; do
        [ -e "$path" ] || { mkdir -p "$(dirname "$path")" && ln -s "$(readlink -f "$headers")" "$path"; }
    done < "$built/includes"
}

case ${1:-} in
    --build) build "${2:?a folder}"; exit ;;
    --built) use_built "${2:?a folder}" ;;
    '') ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

# A line of the table, shown at once: row NAME RESULT REMARK
row() {
    rows+=("$1|$2|$3")
    printf '%-20s %-8s %s\n' "$1" "$2" "$3" >&2
}

# check NAME NEEDED COMMAND...: runs the command if the program NEEDED is there.
check() {
    local name=$1 needed=$2 start=$SECONDS
    shift 2
    if [[ " ${GPU_CHECKS_SKIP:-} " == *" $name "* ]]; then
        row "$name" "not run" "left out by GPU_CHECKS_SKIP"
    elif [ -n "${GPU_CHECKS_ONLY:-}" ] && [[ " $GPU_CHECKS_ONLY " != *" $name "* ]]; then
        row "$name" "not run" "not among those of GPU_CHECKS_ONLY"
    elif ! command -v "$needed" > /dev/null; then
        row "$name" "not run" "no $needed on this machine"
    elif [ -n "${GPU_CHECKS_TOTAL:-}" ] && [ "$SECONDS" -ge "$GPU_CHECKS_TOTAL" ]; then
        row "$name" "not run" "no time left of the $GPU_CHECKS_TOTAL s of GPU_CHECKS_TOTAL"
    elif rm -f "$logs/ended" && "$@" > "$logs/$name.log" 2>&1; then
        if grep -q '^skipped: ' "$logs/$name.log"; then
            row "$name" "not run" "$(sed -n 's/^skipped: //p' "$logs/$name.log" | head -1)"
            return
        fi
        row "$name" passed "$((SECONDS - start)) s $(sed -n 's/^remark: //p' "$logs/$name.log" | tail -1)"
    elif [ -n "${GPU_CHECKS_TOTAL:-}" ] && [ -e "$logs/ended" ] && [ "$SECONDS" -ge "$GPU_CHECKS_TOTAL" ]; then
        row "$name" "not run" "to its end: the $GPU_CHECKS_TOTAL s of GPU_CHECKS_TOTAL are over"
    else
        row "$name" FAILED "$(cat "$logs/$name.log" "$logs/ended" 2> /dev/null | sed -n 's/^remark: //p' | tail -1) see $logs/$name.log"
        failed=1
    fi
}

# Ends a program that hangs, so that the others have their turn, and says so; none takes longer than what is left of the whole.
limited() {
    local most=${GPU_CHECKS_SECONDS:-200} left status=0
    if [ -n "${GPU_CHECKS_TOTAL:-}" ]; then
        left=$((GPU_CHECKS_TOTAL - SECONDS))
        if [ "$left" -lt 1 ]; then left=1; fi
        if [ "$most" -gt "$left" ]; then most=$left; fi
    fi
    timeout --kill-after=10 "$most" "$@" || status=$?
    # where the check shows it, whatever becomes of the program's output
    case $status in 124 | 137) echo "remark: ended after $most s" >> "$logs/ended" ;; esac
    return "$status"
}

# A test: run_test NAME ARGUMENTS...
run_test() {
    local program
    program=$(test_program "$1") || return 1
    shift
    limited "$program" "$@"
}

# A test under compute-sanitizer: sanitize TOOL NAME ARGUMENTS...
sanitize() {
    local program tool=$1 said status=0
    program=$(test_program "$2") || return 1
    shift 2
    said=$(mktemp)
    limited compute-sanitizer --tool "$tool" --error-exitcode 1 "$program" --test-threads 1 "$@" > "$said" 2>&1 || status=$?
    cat "$said"
    if grep -q 'Device not supported' "$said"; then
        echo "skipped: compute-sanitizer does not support the device as this machine has it"
        status=0
    fi
    rm -f "$said"
    return "$status"
}

edkm() {
    if [ -n "$built" ]; then
        limited "$built/edkm" "$@"
    else
        cargo build --release -q -p edkm-cli --features cuda --target-dir "$target" && limited "$target/release/edkm" "$@"
    fi
}

# A number of the last line of JSON: number FILE KEY.
number() { tail -1 "$1" | grep -o "\"$2\":[0-9.e+-]*" | head -1 | cut -d: -f2; }

# Whether the loader finds a library: library_is_there NAME
library_is_there() {
    local paths path
    if ldconfig -p 2> /dev/null | grep -q "$1 "; then return; fi
    IFS=: read -ra paths <<< "${LD_LIBRARY_PATH:-}"
    for path in "${paths[@]}"; do
        if [ -e "$path/$1" ]; then return; fi
    done
    return 1
}

# Learners that are GPUs of this machine.
several_gpus() {
    local count
    count=$(nvidia-smi --list-gpus | wc -l)
    if [ "$count" -lt 2 ]; then
        echo "skipped: needs two GPUs, and there is $count"
    elif [ -n "$built" ] && [ ! -x "$built/nccl" ]; then
        echo "skipped: built where there was no NCCL to link with"
    elif [ -z "$built" ] && ! links_nccl; then
        echo "skipped: no NCCL to link with"
    elif ! library_is_there libnccl.so.2; then
        echo "skipped: no libnccl.so.2 on this machine"
    else
        run_test nccl --nocapture && echo "remark: $count GPUs"
    fi
}

# The perplexity of a model after fine-tuning, the embedded one if none is named: finetuned NAME ARGUMENTS... (100 steps; of the run its metrics are left)
finetuned() {
    local name=$1
    shift
    edkm finetune --steps 100 --out "$work/$name" --json "$@" > "$work/$name.json" || return 1
    mv "$work/$name/metrics.jsonl" "$work/$name.metrics" && rm -rf "${work:?}/$name"
    number "$work/$name.json" perplexity_after
}

# Whether two numbers differ by at most a share: near A B SHARE.
near() { awk -v a="$1" -v b="$2" -v most="$3" 'BEGIN { exit !(a > 0 && b > 0 && a / b < 1 + most && b / a < 1 + most) }'; }

# The embedded model fine-tuned on GPU and CPU: perplexities within 1 %, with rounded products within 2 %.
finetune_on_both() {
    local work cpu gpu tf32 f16 eight early
    work=$(mktemp -d)
    cpu=$(finetuned cpu --device cpu)
    gpu=$(finetuned gpu --device cuda)
    tf32=$(finetuned tf32 --device cuda --precision tf32)
    f16=$(finetuned f16 --device cuda --precision f16)
    eight=$(finetuned eight --device cuda --optimizer adamw-8bit)
    early=$(finetuned early --device cuda --update-in-backward)
    # one that failed has none
    echo "remark: perplexity $cpu on the CPU; on the GPU $gpu, $tf32 in TF32, $f16 in f16, $eight with moments of 8 bits, $early updated in backward; training took" \
        "$(number "$work/cpu.json" training_seconds) s on the CPU, $(number "$work/gpu.json" training_seconds) s on the GPU"
    near "$cpu" "$gpu" 0.01 && near "$cpu" "$tf32" 0.02 && near "$cpu" "$f16" 0.02 && near "$cpu" "$eight" 0.01 && near "$cpu" "$early" 0.01
}

# The same with palettes of single rows' groups, rows of one spread and a clustered embedding, on short records that see themselves alone.
finetune_settings_on_both() {
    local work cpu gpu i
    work=$(mktemp -d)
    for i in $(seq 400); do echo "{\"prompt\": \"Tom has $i balls.\", \"completion\": \" He gave $i balls to his friend.\"}"; done > "$work/records.jsonl"
    local settings=(--data "$work/records.jsonl" --bits 4 --group 8 --per-channel-scale --embedding-bits 8 --steps 30)
    cpu=$(finetuned cpu "${settings[@]}" --device cpu)
    gpu=$(finetuned gpu "${settings[@]}" --device cuda)
    echo "remark: perplexity $cpu on the CPU, $gpu on the GPU; training took" \
        "$(number "$work/cpu.json" training_seconds) s on the CPU, $(number "$work/gpu.json" training_seconds) s on the GPU"
    near "$cpu" "$gpu" 0.02
}

# Names the folders of reference files, where they are.
name_folders() {
    local folder
    for folder in golden models data; do
        local variable=EDKM_${folder^^}
        if [ -z "${!variable:-}" ] && [ -d "../shared/$folder" ]; then export "$variable=$(cd "../shared/$folder" && pwd)"; fi
    done
}

# The mean loss of a run's steps: mean_loss NAME
mean_loss() { grep -o '"loss":[0-9.e+-]*' "$work/$1.metrics" | cut -d: -f2 | awk '{ sum += $1 } END { if (NR > 0) print sum / NR }'; }

# A published model fine-tuned on GPU and CPU, where the files are: perplexities, and the mean losses of the steps, within 1 %. (On the CPU, learning rates that
# differ by 2e-6 of themselves make a difference of 0.5 % and 0.2 %.)
finetune_published_on_both() {
    local work cpu gpu
    name_folders
    local model=${EDKM_MODELS:-/nowhere}/stories260k text=${EDKM_DATA:-/nowhere}/stories
    if [ ! -d "$model" ] || [ ! -f "${text}_train.txt" ] || [ ! -f "${text}_valid.txt" ]; then
        echo "skipped: no stories260k in ../shared/models or EDKM_MODELS, or no stories_train.txt and stories_valid.txt in ../shared/data or EDKM_DATA"
        return
    fi
    work=$(mktemp -d)
    local settings=("$model" --data "${text}_train.txt" --valid "${text}_valid.txt" --bits 3 --seq 256 --batch 4 --steps 40 --eval-tokens 10000)
    cpu=$(finetuned cpu "${settings[@]}" --device cpu)
    gpu=$(finetuned gpu "${settings[@]}" --device cuda)
    echo "remark: perplexity $cpu on the CPU, $gpu on the GPU; mean losses $(mean_loss cpu), $(mean_loss gpu); training took" \
        "$(number "$work/cpu.json" training_seconds) s on the CPU, $(number "$work/gpu.json" training_seconds) s on the GPU"
    near "$cpu" "$gpu" 0.01 && near "$(mean_loss cpu)" "$(mean_loss gpu)" 0.01
}

# The model on CPU and GPU against float64, where the files are.
golden() {
    name_folders
    if ! ls "${EDKM_GOLDEN:-/nowhere}"/llama_* > /dev/null 2>&1; then
        echo "skipped: no files with references in ../shared/golden or EDKM_GOLDEN"
        return
    fi
    run_test llama_golden --nocapture
}

# What is saved for backward goes to the host in every way: the same perplexity, digit for digit.
finetune_offloaded() {
    local work stays all packed some
    work=$(mktemp -d)
    stays=$(finetuned stays --device cuda --device-memory 1GiB) && all=$(finetuned all --device cuda --store marshal,overlap=64MiB) &&
        packed=$(finetuned packed --device cuda --store marshal,compress,overlap=64MiB) &&
        some=$(finetuned some --device cuda --store marshal,overlap=64MiB --device-memory 2MiB) || return 1
    local seconds
    seconds=$(for run in stays all packed some; do number "$work/$run.json" training_seconds; done | paste -sd ' ')
    echo "remark: $stays each; seconds on the GPU, to the host, packed there, with a budget: $seconds"
    [ "$stays" = "$all" ] && [ "$stays" = "$packed" ] && [ "$stays" = "$some" ]
}

# A written model on GPU and CPU, packed: perplexity and the likelihoods of answers within 0.1 %, and the same text.
inference_on_both() {
    local work cpu gpu i
    work=$(mktemp -d)
    edkm finetune --steps 5 --out "$work/model" --json > /dev/null || return 1
    yes "Once upon a time there was a little girl. She had a red ball." | head -200 > "$work/text.txt"
    for i in $(seq 40); do
        echo "{\"goal\": \"Lily had $i red balls.\", \"sol1\": \"She was happy.\", \"sol2\": \"Tom went to the park with his dog.\"}"
    done > "$work/piqa.jsonl"
    yes 0 | head -40 > "$work/piqa.lst"
    for device in cpu cuda; do
        edkm eval "$work/model" --task perplexity --data "$work/text.txt" --seq 128 --task piqa --data "$work/piqa.jsonl" --labels "$work/piqa.lst" \
            --device $device --log-samples "$work/$device.samples" --json > "$work/$device.json" || return 1
        edkm generate "$work/model" --prompt "Once upon a time" --temperature 0 --tokens 100 --device $device --json > "$work/$device.text" || return 1
        grep -o '"log_likelihoods":\[[^]]*' "$work/$device.samples" | grep -o '[-0-9.e]*[0-9]' > "$work/$device.likelihoods"
    done
    cpu=$(number "$work/cpu.json" perplexity) gpu=$(number "$work/cuda.json" perplexity)
    echo "remark: perplexity $cpu on the CPU, $gpu on the GPU; tokens a second" \
        "$(number "$work/cpu.text" tokens_per_second), $(number "$work/cuda.text" tokens_per_second)"
    near "$cpu" "$gpu" 0.001 &&
        paste "$work/cpu.likelihoods" "$work/cuda.likelihoods" | awk '{ if (!(($1 - $2) ^ 2 <= ($1 / 1000) ^ 2)) bad = 1 } END { exit bad || NR != 80 }' &&
        [ "$(tail -1 "$work/cpu.text" | grep -o '"text":.*' | cut -d'"' -f4)" = "$(tail -1 "$work/cuda.text" | grep -o '"text":.*' | cut -d'"' -f4)" ]
}

# Tokens a second from random packed weights: generation CONFIG
generation() {
    local file=$logs/generation-$1.json
    edkm bench generate --config "$1" --bits 3 --prompt 512 --tokens 64 --device cuda --json > "$file" || return 1
    echo "remark: $(number "$file" tokens_per_second) tokens a second, a prompt of 512 $(number "$file" prompt_tokens_per_second)"
}

# Clustering 4096 x 4096 at 3 bits: at least 40 % of the bandwidth of copying W, W~, g and dW on the device. Its tables are made in f64, so GPUs that have
# hardly any (consumers') are measured alone.
bench_cluster() {
    local least=0 note=", no bar for a GPU with little f64"
    case $(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1) in
        8.0 | 9.0 | 10.0) least=0.4 note= ;;
    esac
    local file=$logs/bench-cluster.json
    # a pass takes less than a millisecond: enough of them that the GPU has its usual clock
    edkm bench cluster --rows 4096 --cols 4096 --bits 3 --repeats 200 --device cuda --json > "$file" || return 1
    cat "$file"
    awk -v ratio="$(number "$file" ratio)" -v least="$least" -v note="$note" \
        -v forward="$(number "$file" forward_seconds)" -v backward="$(number "$file" backward_seconds)" 'BEGIN {
        if (!(ratio > 0)) exit 1
        printf "remark: %.1f %% of the bandwidth of copying: %.3f ms forward, %.3f ms backward%s\n", 100 / ratio, 1e3 * forward, 1e3 * backward, note
        exit !(1 / ratio >= least)
    }'
}

# The same with 512 palettes of eight rows: no bar, since each palette has tables of its own.
bench_cluster_groups() {
    local file=$logs/bench-cluster-groups.json
    edkm bench cluster --rows 4096 --cols 4096 --bits 4 --group 8 --device cuda --json > "$file" || return 1
    cat "$file"
    awk -v forward="$(number "$file" forward_seconds)" -v backward="$(number "$file" backward_seconds)" \
        'BEGIN { printf "remark: %.2f ms forward, %.2f ms backward\n", 1e3 * forward, 1e3 * backward }'
}

# One training step of a model with random weights, 512 tokens, with and without clustering: step CONFIG LEAST_MIB ARGUMENTS...
step() {
    local config=$1 least=$2 total
    shift 2
    total=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -1)
    if [ "$total" -lt "$least" ]; then
        echo "skipped: needs a GPU of $least MiB, and this one has $total"
        return
    fi
    local log=$logs/step-$config$(tr -d ' ' <<< "$*")
    local clustered=$log.json unclustered=$log-unclustered.json
    edkm bench step --config "$config" --seq 512 --bits 3 --repeats 3 --device cuda --json "$@" > "$clustered" &&
        edkm bench step --config "$config" --seq 512 --no-cluster --repeats 3 --device cuda --json "$@" > "$unclustered" || return 1
    cat "$clustered" "$unclustered"
    echo "remark: $(number "$clustered" seconds) s a step, $(number "$unclustered" seconds) s without clustering, $(number "$clustered" matmul_seconds) s for the" \
        "products alone; $(number "$clustered" device_bytes) bytes of the GPU"
}

# A number of the first row of the last line of JSON that begins so: number_of_row FILE BEGINNING KEY
number_of_row() { tail -1 "$1" | grep -o "{$2[^{}]*" | head -1 | grep -o "\"$3\":[0-9.e+-]*" | cut -d: -f2; }

mebibytes() { awk -v bytes="$1" 'BEGIN { if (bytes == "") print "?"; else printf "%.1f MiB", bytes / 1048576 }'; }

# A LLaMA-7B decoder layer, forward and backward; what is saved for backward goes to the host, or stays. The rows of this project must be measured,
# that of dfdx's own ops may fail; all figures are in the logs.
bench_layer() {
    local saved variant file seconds remark=
    for saved in leaves stays; do
        local budget=()
        [ $saved = leaves ] || budget=(--device-memory 16GiB)
        file=$logs/bench-layer-$saved.json
        edkm bench layer --store marshal,overlap=1GiB "${budget[@]}" --device cuda --json > "$file" || return 1
        cat "$file"
        remark+="; what is saved $saved:"
        for variant in stock unclustered clustered checkpointed; do
            seconds=$(number_of_row "$file" "\"name\":\"$variant\"" seconds)
            remark+=" $variant ${seconds:-?} s"
            remark+=" $(mebibytes "$(number_of_row "$file" "\"name\":\"$variant\"" device_peak_bytes)"),"
        done
        remark=${remark%,}
    done
    echo "remark: seconds and peak beyond weights and gradients${remark}"
}

# What the layer keeps from forward to backward, on the GPU and by the store on the host.
bench_saved() {
    local row remark= file=$logs/bench-saved.json
    edkm bench saved --device cuda --json > "$file" || return 1
    cat "$file"
    for row in stock,OwnedTape,nothing unclustered,marshal,nothing clustered,marshal,nothing clustered,marshal,attention clustered,marshal,layer; do
        local ops store again
        IFS=, read -r ops store again <<< "$row"
        row="\"ops\":\"$ops\",\"store\":\"$store\",\"recompute\":\"$again\""
        remark+=", $ops with $again run again $(mebibytes "$(number_of_row "$file" "$row" kept_bytes)")"
        remark+=" ($(mebibytes "$(number_of_row "$file" "$row" device_kept_bytes)") on the GPU)"
    done
    echo "remark: kept${remark#,}"
}

nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv 2> /dev/null || echo "no GPU: nvidia-smi does not answer"
# what needs no GPU has its turn where it is built; then what has been seen least
if [ -z "$built" ]; then
    check device-code nvcc scripts/check-device-code.sh
    check ops-on-host cargo cargo test -p edkm-cuda --test device
    check plugin-on-host cargo scripts/cuda-on-host.sh target/cuda-stand-in
fi
check ops-on-gpu nvidia-smi run_test device
check plugin-on-gpu nvidia-smi run_test cuda
check plugin-precision nvidia-smi run_test cuda_precision
check bench-cluster nvidia-smi bench_cluster
check bench-cluster-groups nvidia-smi bench_cluster_groups
check inference-on-gpu nvidia-smi run_test inference inference::gpu
check inference-embedded nvidia-smi inference_on_both
check finetune-embedded nvidia-smi finetune_on_both
check finetune-settings nvidia-smi finetune_settings_on_both
check finetune-published nvidia-smi finetune_published_on_both
check several-gpus nvidia-smi several_gpus
check golden-llama nvidia-smi golden
check finetune-offloaded nvidia-smi finetune_offloaded
check plugin-memcheck compute-sanitizer sanitize memcheck cuda
# what asks for more memory than there is gets an error, which the tool takes for a mistake
check inference-memcheck compute-sanitizer sanitize memcheck inference inference::gpu --skip a_cache_that_does_not_fit
check tinyllama-generation nvidia-smi generation tinyllama-1.1b
check llama-7b-generation nvidia-smi generation llama-7b
# weights and moments of 8 bits are 41 GB, where gradients are freed as they come
check llama-7b-step-in-backward nvidia-smi step llama-7b 60000 --optimizer adamw-8bit --update-in-backward
# weights, gradients and moments are 108 GB
check llama-7b-step nvidia-smi step llama-7b 130000
# and 68 with moments of 8 bits
check llama-7b-step-8bit nvidia-smi step llama-7b 78000 --optimizer adamw-8bit
check tinyllama-1b-step nvidia-smi step tinyllama-1.1b 21000
check layer-bench nvidia-smi run_test layer_bench
check decoder-layer nvidia-smi bench_layer
check decoder-layer-saved nvidia-smi bench_saved
for tool in memcheck initcheck racecheck synccheck; do
    check "ops-$tool" compute-sanitizer sanitize "$tool" device
done

printf '\n%-20s %-8s %s\n' check result remark
for row in "${rows[@]}"; do
    IFS='|' read -r name result remark <<< "$row"
    printf '%-20s %-8s %s\n' "$name" "$result" "$remark"
done
exit "$failed"
