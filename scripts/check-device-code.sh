#!/usr/bin/env bash
# check-device-code.sh: compiles every CUDA source to machine code by nvcc, for sm_80 and sm_90, each file alone and all as one unit (as NVRTC gets
# them), and as one unit by NVRTC, which refuses some of what nvcc takes. Prints registers, shared memory and spills of each kernel; fails on any error,
# warning or spill. Needs nvcc and NVRTC's library, no GPU (scripts/cuda-toolkit.sh).
set -euo pipefail
cd "$(dirname "$0")/../crates/edkm-cuda/cuda"
command -v nvcc > /dev/null || { echo "no nvcc: scripts/cuda-toolkit.sh DIR brings one" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat prelude.cuh tiles.cuh ./*.cu > "$work/all.cu"
status=0
for arch in sm_80 sm_90; do
    for file in ./*.cu "$work/all.cu"; do
        if nvcc -arch="$arch" -cubin -Werror all-warnings -Xptxas -v -include prelude.cuh -include tiles.cuh "$file" -o "$work/out" > "$work/log" 2>&1; then
            kernels=$(grep -c "Compiling entry function" "$work/log")
            echo "$arch $(basename "$file"): $kernels kernels, at most $(grep -o "Used [0-9]* registers" "$work/log" | grep -o "[0-9]*" | sort -n | tail -1) registers"
            if grep "spill" "$work/log" | grep -qv " 0 bytes spill stores, 0 bytes spill loads"; then
                echo "$arch $(basename "$file"): spills" >&2
                status=1
            fi
        else
            cat "$work/log" >&2
            status=1
        fi
    done
done
root=$(dirname "$(readlink -f "$(command -v nvcc)")")/..
for folder in "$root/lib" "$root/lib64" "$root/targets/x86_64-linux/lib"; do
    # not the stub to link with
    [ -f "$folder/libnvrtc.so.13" ] && export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
done
for arch in compute_80 compute_90; do
    python3 ../../../scripts/nvrtc-check.py "$work/all.cu" libnvrtc.so.13 "$arch" || status=1
done
exit "$status"
