#!/usr/bin/env bash
# cuda-on-host.sh DIR [CARGO ARGUMENTS]: builds and runs programs with the feature `cuda` on a machine with neither a GPU nor a CUDA toolkit. In DIR it puts a
# stand-in for driver, NVRTC and cuBLAS that runs this project's kernels on the host (crates/edkm-cuda/tests/device/standin.cpp), and what dfdx's
# build asks for. Without arguments for cargo it runs the tests of edkm-cuda's driver, of the plugin's CUDA device and of inference. Other uses:
#     scripts/cuda-on-host.sh DIR test -p edkm-tests --features cuda --test llama_golden --test layer_bench
#     scripts/cuda-on-host.sh DIR run -p edkm-cli --features cuda -- finetune --device cuda --seq 16 --batch 1 --steps 3 --eval-tokens 200
#     scripts/cuda-on-host.sh DIR run -p edkm-cli --features cuda -- generate MODEL_DIR --prompt "Once upon a time" --tokens 20 --device cuda
#     scripts/cuda-on-host.sh DIR run -p edkm-cli --features cuda -- bench layer --hidden 64 --intermediate 96 --heads 4 --seq 16 --device cuda
# It shows that memory, launches and numbers are right, not speed, races between blocks, or dfdx's own kernels (tests named dfdx_own are left out).
# Needs a C++ compiler. EDKM_STANDIN_MEMORY: bytes of the device (1 TiB). CARGO_TARGET_DIR: where to build (target/cuda-on-host).
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,11s/^# //p' "$0" >&2; exit 2; }
dir=$(mkdir -p "$1" && cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
crate=crates/edkm-cuda
mkdir -p "$dir/bin" "$dir/lib" "$dir/include"
touch "$dir/include/cuda.h"
cat $crate/cuda/prelude.cuh $crate/cuda/tiles.cuh $crate/cuda/*.cu > "$dir/kernels.h"
grep -ohE 'EDKM_KERNEL \w+' $crate/cuda/*.cu | sed 's/EDKM_KERNEL \(.*\)/EDKM_ENTRY(\1)/' > "$dir/entries.h"
"${CXX:-c++}" -std=c++17 -O2 -ffp-contract=off -shared -fPIC -pthread -I "$dir" -I $crate/tests/device $crate/tests/device/standin.cpp \
    -Wl,-soname,libcuda.so.1 -o "$dir/lib/libcuda.so"
ln -sf libcuda.so "$dir/lib/libcuda.so.1"
for name in nvrtc cublas cublasLt; do
    "${CXX:-c++}" -shared -fPIC -x c++ /dev/null -Wl,-soname,lib$name.so -o "$dir/lib/lib$name.so"
done
# dfdx's build script compiles its kernels by nvcc, for the GPU that nvidia-smi names
printf '#!/bin/sh\necho compute_cap\necho 9.0\n' > "$dir/bin/nvidia-smi"
cat > "$dir/bin/nvcc" <<'END'
#!/bin/sh
[ "$1" = --list-gpu-code ] && { echo sm_90; exit 0; }
while [ $# -gt 1 ]; do [ "$1" = --output-directory ] && out=$2; shift; done
echo standin > "$out/$(basename "$1" .cu).ptx"
END
chmod +x "$dir/bin/nvidia-smi" "$dir/bin/nvcc"
export CUDA_PATH=$dir CUDA_ROOT=$dir PATH=$dir/bin:$PATH LD_LIBRARY_PATH=$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
# A capability that no GPU has: with any other one dfdx's build script runs again, so that a real build in the same folder never gets these kernels.
export CUDA_COMPUTE_CAP=9000
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/cuda-on-host}
if [ $# -gt 0 ]; then
    cargo "$@"
else
    # One choice of packages and features for all of it, or cargo builds what they share once for each; with the program among them it is that of the
    # whole workspace, but for dfdx and what stands on it.
    tests() {
        cargo test -p edkm-cuda -p dfdx-edkm -p edkm-llama -p edkm-cli --features edkm-cuda/driver,dfdx-edkm/cuda,edkm-llama/cuda "$@"
    }
    # the same with streams far ahead of each other: a wait that is missing shows
    late() {
        local streams
        for streams in late-copies late-kernels; do
            EDKM_STANDIN_STREAMS=$streams tests --test cuda -- --skip dfdx_own --skip from_every_store store what_the_device_keeps half_tensor || return 1
        done
        EDKM_STANDIN_STREAMS=late tests --test cuda -- --skip dfdx_own store what_the_device_keeps half_tensor || return 1
        EDKM_STANDIN_STREAMS=late tests --test cuda -- --skip dfdx_own optimizer || return 1
        EDKM_STANDIN_STREAMS=late tests --lib -- inference::gpu
    }
    tests --test device
    tests --lib -- driver:: device::cuda inference::gpu
    tests --test cuda --test cuda_precision --no-run
    # a device does one thing at a time, so that two of them take hardly longer than one
    late > "$dir/late.log" 2>&1 &
    status=0
    tests --test cuda --test cuda_precision -- --skip dfdx_own || status=$?
    wait $! || status=$?
    cat "$dir/late.log"
    exit "$status"
fi
