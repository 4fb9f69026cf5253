#!/usr/bin/env bash
# cuda-toolkit.sh DIR: what builds everything with CUDA 13.0 on a machine without a toolkit or a GPU, in DIR (about 270 MB, from Python packages).
# Then: source DIR/env.sh && scripts/check-device-code.sh
#       source DIR/env.sh && cargo build --release --features cuda --target-dir target/cuda
# The program needs the real libcuda.so.1, libnvrtc.so.13 and libcublas.so.13 where it runs, with feature nccl libnccl.so.2: here are stubs to link with.
# nvcc is pinned to 13.0: newer ones emit PTX that a driver of the 580 series refuses. COMPUTE_CAP: of the oldest GPU that dfdx's kernels are to run on (8.0).
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
dir=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
python3 -m pip install -q --no-deps --target "$dir/site" nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvrtc==13.0.88
root=$dir/site/nvidia/cu13
mkdir -p "$dir/bin" "$dir/stubs"
# dfdx's build script asks nvidia-smi what to compile for
printf '#!/bin/sh\necho compute_cap\necho %s\n' "${COMPUTE_CAP:-8.0}" > "$dir/bin/nvidia-smi"
chmod +x "$dir/bin/nvidia-smi"
# stubs of the functions that cudarc declares; never on LD_LIBRARY_PATH
cargo fetch -q
cudarc=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-0.9.15 | head -n 1)
for library in driver:cuda:libcuda.so.1 nvrtc:nvrtc:libnvrtc.so.13 cublas:cublas:libcublas.so.13 cublaslt:cublasLt:libcublasLt.so.13 \
    nccl:nccl:libnccl.so.2; do
    IFS=: read -r module name soname <<< "$library"
    grep -ohE 'pub fn (cu|nvrtc|nccl)\w+' "$cudarc/src/$module/sys.rs" | awk '{print "int "$3"(void){return 999;}"}' | sort -u > "$dir/stubs/$name.c"
    "${CC:-cc}" -shared -fPIC -nostdlib -w -Wl,-soname,"$soname" -o "$root/lib/lib$name.so" "$dir/stubs/$name.c"
done
cat > "$dir/env.sh" <<END
export CUDA_PATH=$root CUDA_ROOT=$root PATH=$dir/bin:$root/bin:\$PATH
END
echo "source $dir/env.sh"
