#!/usr/bin/env bash
# cuda-toolkit.sh DIR: the CUDA 13.0 compiler and headers from Python packages, in DIR (about 270 MB), for a machine without a toolkit or a GPU.
# Then: source DIR/env.sh && scripts/check-device-code.sh
# nvcc is pinned to 13.0: newer ones emit PTX that a driver of the 580 series refuses.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
dir=$(mkdir -p "$1" && cd "$1" && pwd)
python3 -m pip install -q --no-deps --target "$dir/site" nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-cccl==13.0.85 nvidia-cuda-runtime==13.0.96 nvidia-cuda-nvrtc==13.0.88
root=$dir/site/nvidia/cu13
cat > "$dir/env.sh" <<END
export CUDA_PATH=$root CUDA_ROOT=$root PATH=$root/bin:\$PATH LD_LIBRARY_PATH=$root/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}
END
echo "source $dir/env.sh"
