"""Compile the C beside this file and the kernels that CuPy generates, each once: what is there already is taken from a folder of
the temporary directory, whose name depends on all that goes into it."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KERNEL_FLAGS = ["-O1", "-std=c++17", "-fPIC", "-w"]
LINK_FLAGS = ["-shared", "-Wl,-Bsymbolic"]  # a kernel may be named as a function of the C library is
sources: dict[str, set[tuple[str, tuple[str, ...]]]] = {}  # by a kernel's name: what CuPy gave for compiling, and the options


def cupy_folder() -> Path:
    return Path(find_spec("cupy").submodule_search_locations[0])


def run(*command: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed on {command[-1]}:\n{done.stderr[:4000]}")
    return done.stdout


@cache
def cache_folder() -> Path:
    texts = [file.read_bytes() for file in sorted(HERE.rglob("*")) if file.suffix in (".c", ".h", ".py")]
    texts += [f"{name} {version(name)}".encode() for name in ("cupy-cuda12x", "cupy-cuda13x") if installed(name)]
    texts += [run("g++", "--version").encode(), str(cupy_folder()).encode()]
    folder = Path(tempfile.gettempdir()) / f"emulated-gpu-{os.getuid()}" / hashlib.sha256(b"\0".join(texts)).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.parent.stat().st_uid != os.getuid():
        raise RuntimeError(f"{folder.parent} belongs to somebody else")
    return folder


def installed(name: str) -> bool:
    try:
        return bool(version(name))
    except ImportError:
        return False


def made(name: str, *command: Any) -> Path:
    """The file of this name in the cache folder; where it isn't there, `command` with `-o` and a name makes it.

    Processes that do so at once each make their own, and the last one's stays.
    """
    path = cache_folder() / name
    if not path.exists():
        own = path.with_name(f"{os.getpid()}-{name}")
        run(command[0], "-o", own, *command[1:])
        own.rename(path)
    return path


# Libraries


def libraries() -> list[Path]:
    """CUDA's libraries, named as CuPy asks for them: the driver, and those that its modules are linked with."""
    found = [made("libcuda.so.1", "gcc", "-O2", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", HERE / "driver.c", "-ldl")]
    for library, names in linked().items():
        path = cache_folder() / f"{library}.c"
        text = (HERE / "cublas.c").read_text() if library.startswith("libcublas.") else "#include <stdio.h>\n"
        path.write_text(text + "".join(missing(name) for name in sorted(names - set(re.findall(r"\b\w+\b", text)))))
        flags = ["-O3", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-Wl,--default-symver"]
        found.append(made(library, "gcc", *flags, path))
    return found


def linked() -> dict[str, set[str]]:
    """The functions of each of CUDA's libraries that must be there for CuPy's modules to be loaded."""
    modules = [file for name in ("cublas", "curand", "jitify") for file in cupy_folder().parent.glob(f"cupy*/**/{name}.*.so")]
    found: dict[str, set[str]] = {}
    for name, library in re.findall(r" U (\w+)@(lib(?:cu|nv)\w+\.so\.\d+)", run("nm", "-D", "--undefined-only", *modules)):
        found.setdefault(library, set()).add(name)
        found.setdefault(library.replace("libcublas.", "libcublasLt."), set())  # which cuBLAS itself is linked with
    return found


def missing(name: str) -> str:
    return f'\nint {name}() {{ fputs("the emulated GPU has no {name}\\n", stderr); return 15; }}\n'


# Kernels


@cache
def headers() -> tuple[str, ...]:
    """Flags that include the headers, which are compiled beforehand."""
    core = cupy_folder() / "_core" / "include"
    folders = [HERE / "include", core, *sorted((core / "cupy" / "_cccl").iterdir())]
    flags = [f"-I{folder}" for folder in folders]
    header = made("cuda_on_cpu.h.gch", "g++", *KERNEL_FLAGS, *flags, "-x", "c++-header", HERE / "include" / "cuda_on_cpu.h")
    return *flags, "-include", str(header.with_suffix(""))


def compile_module(source: str, options: tuple[str, ...] = (), *_: Any, name_expressions: Any = None, **__: Any) -> Any:
    """In place of CuPy's compiler: g++ makes a shared object of a kernel's source, and the driver loads it."""
    from cupy.cuda import function

    if name_expressions:
        raise NotImplementedError(f"the emulated GPU knows no templates by name: {name_expressions}")
    names = re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(", source)
    for name in names:
        sources.setdefault(name, set()).add((source, tuple(options)))
    any_grid = "CUPY_FOR(" in source and "__syncthreads" not in source
    text = source + "".join(f"\nDEFINE_CALL({name})" for name in names)
    text += f'\nextern "C" {{ extern const bool any_grid = {str(any_grid).lower()}; }}\n'
    stem = hashlib.sha256(text.encode()).hexdigest()[:24]
    path = cache_folder() / f"{stem}.cpp"
    if not path.exists():
        path.write_text(text)
    module = function.Module()
    module.load(str(made(f"{stem}.so", "g++", *KERNEL_FLAGS, *headers(), *LINK_FLAGS, path)).encode() + b"\0")
    return module
