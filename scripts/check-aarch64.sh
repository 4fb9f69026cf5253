#!/usr/bin/env bash
# check-aarch64.sh [ARGUMENTS OF cargo test]: tests for 64-bit Arm on another machine, in an emulator. Without arguments those of the crates with instructions of
# their own; `scripts/check-aarch64.sh --workspace` for all, which takes hours. Needs the target (rustup target add aarch64-unknown-linux-gnu), a C compiler for it
# and qemu (Debian: gcc-aarch64-linux-gnu and qemu-user). Exits with 2, and says what is missing, where one of them is.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
sysroot=/usr/aarch64-linux-gnu
missing() {
    echo "skipped: $1" >&2
    exit 2
}
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || missing "no target $target (rustup target add $target)"
command -v aarch64-linux-gnu-gcc > /dev/null || missing "no C compiler for $target (Debian: gcc-aarch64-linux-gnu)"
command -v qemu-aarch64 > /dev/null || missing "no emulator (Debian: qemu-user)"
export CARGO_BUILD_TARGET=$target
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $sysroot"
[ $# -gt 0 ] || set -- -p edkm-palette -p edkm-kernels
cargo clippy -p edkm-palette -p edkm-kernels --all-targets -- -D warnings
exec cargo test "$@"
