"""Freed memory goes back to the system."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from stem_ae import memory

FREE_MOST = """
import pathlib
from stem_ae import memory

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1])

memory.give_back()
before = resident()
blocks = [bytearray(40_000) for _ in range(2_000)]
last = blocks[-1]  # the top of the heap, below which the C library keeps all that is freed
filled = resident()
del blocks
kept = resident()
assert memory.give_back()
print(before, filled, kept, resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the C library cannot be asked")
def test_what_the_c_library_keeps_is_given_back():
    root = pathlib.Path(memory.__file__).parents[1]
    answer = subprocess.run([sys.executable, "-c", FREE_MOST], cwd=root, capture_output=True, text=True, check=True)
    before, filled, kept, after = map(int, answer.stdout.split())
    assert kept - before > 0.9 * (filled - before)
    assert after - before < 0.1 * (filled - before)
