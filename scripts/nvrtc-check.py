"""nvrtc-check.py FILE LIBRARY ARCHITECTURE: compiles a CUDA source by NVRTC as the program does. Needs NVRTC's library, no GPU."""

import ctypes
import sys


def main(path: str, library: str, architecture: str) -> int:
    nvrtc = ctypes.CDLL(library)
    with open(path, "rb") as file:
        source = file.read()
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, None, 0, None, None)
    options = [b"--fmad=false", b"--gpu-architecture=" + architecture.encode()]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    # what is said of a program that compiles are warnings
    print(log.value.decode().strip() or f"NVRTC {architecture}: compiled")
    return 1 if status != 0 or log.value.strip() else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
