"""A fast LAPACK for programs whose wheels bring the slow reference one."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
import pathlib
import sys


@functools.cache
def use_fast_lapack() -> str:
    """Put an optimised LAPACK in front of the one that tblite's Linux wheel is linked to, and name it.

    That wheel carries the unoptimised reference BLAS, which makes a step of a 91-atom flake three times slower. Symbols
    of libraries that are loaded globally beforehand win, so loading OpenBLAS (of the system) or MKL (inside torch,
    which is always there) is enough. Must be called before tblite is imported; in a calculation's own process only.
    Does nothing on other systems, where wheels come with a good library.
    """
    if not sys.platform.startswith("linux"):
        return "the engine's own"
    candidates = [ctypes.util.find_library("openblas")]
    torch = importlib.util.find_spec("torch")
    if torch and torch.origin:
        candidates.append(str(pathlib.Path(torch.origin).parent / "lib" / "libtorch_cpu.so"))
    for candidate in filter(None, candidates):
        try:
            library = ctypes.CDLL(candidate, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        if hasattr(library, "dsyevd_") and hasattr(library, "dgemm_"):
            return pathlib.Path(candidate).name
    return "the engine's own"
