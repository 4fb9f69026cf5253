#!/usr/bin/env bash
# check-windows.sh [ARGUMENTS OF cargo test]: tests for 64-bit Windows on another system, under wine. Without arguments the unit tests of the crates that deal with
# files; `scripts/check-windows.sh --workspace` for all, which takes half an hour. Needs the target (rustup target add x86_64-pc-windows-gnu), a C compiler for it
# and wine (Debian: gcc-mingw-w64-x86-64 and wine64). Exits with 2, and says what is missing, where one of them is.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-pc-windows-gnu
missing() {
    echo "skipped: $1" >&2
    exit 2
}
[ -d "$(rustc --print sysroot)/lib/rustlib/$target" ] || missing "no target $target (rustup target add $target)"
command -v x86_64-w64-mingw32-gcc > /dev/null || missing "no C compiler for $target (Debian: gcc-mingw-w64-x86-64)"
command -v wine > /dev/null || missing "no wine (Debian: wine64)"
export CARGO_BUILD_TARGET=$target
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER=x86_64-w64-mingw32-gcc
export CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER=wine
# what wine says of itself is no result
export WINEDEBUG=${WINEDEBUG:--all}
# the source of random numbers of Rust's standard library, which wine 8 has not; where wine has its own, that goes first
stand_in=$(realpath -m "${CARGO_TARGET_DIR:-target}/wine")
mkdir -p "$stand_in"
x86_64-w64-mingw32-gcc -shared -O2 -o "$stand_in/bcryptprimitives.dll" -x c - -ladvapi32 << 'C'
#include <windows.h>
#include <ntsecapi.h>
__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T length) { return RtlGenRandom(data, (ULONG)length); }
C
export WINEPATH=$stand_in
crates="-p edkm-palette -p edkm-store -p edkm-llama -p edkm-train"
[ $# -gt 0 ] || set -- $crates --lib
cargo clippy $crates --all-targets -- -D warnings
exec cargo test "$@"
