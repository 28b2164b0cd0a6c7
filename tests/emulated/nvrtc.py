"""NVIDIA's own compiler, where its wheel is installed (nvidia-cuda-nvrtc, nvidia-cuda-nvrtc-cu12). It needs no GPU."""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def why_not() -> str | None:
    return None if _library() else "NVRTC is not installed (nvidia-cuda-nvrtc, or nvidia-cuda-nvrtc-cu12 with cupy-cuda12x)"


@cache
def _library() -> ctypes.CDLL | None:
    spec = find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else []
    found = [path for folder in folders or [] for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*"))]
    return ctypes.CDLL(str(found[-1])) if found else None


def compile(source: str, options: tuple[str, ...], architecture: str) -> bytes:
    """The kernel's code for "sm_90"; raises RuntimeError with the compiler's words where it refuses."""
    nvrtc, program = _library(), ctypes.c_void_p()
    words = [option.encode() for option in (*options, f"--gpu-architecture={architecture}")]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None)
    try:
        failed = nvrtc.nvrtcCompileProgram(program, len(words), (ctypes.c_char_p * len(words))(*words))
        code = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
        if failed:
            raise RuntimeError(code.decode(errors="replace"))
        return _text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _text(get_size, get, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    get_size(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    get(program, text)
    return text.raw
