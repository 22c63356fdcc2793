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


FREE_BETWEEN = """
import pathlib, sys
from stem_ae import memory

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1])

if sys.argv[1] == "settled":
    memory.settle()
bytearray(16_000_000)  # once freed, glibc takes this for a usual size
before = resident()
frames, small = [], []
for _ in range(100):
    frames.append(bytearray(300_000))
    small.append(bytearray(2_000))
filled = resident()
del frames
print(before, filled, resident())
"""


def run(code: str, *arguments: str) -> list[int]:
    root = pathlib.Path(memory.__file__).parents[1]
    command = [sys.executable, "-c", code, *arguments]
    return list(map(int, subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the C library cannot be asked")
def test_frames_between_small_things_go_back_at_once():
    before, filled, kept = run(FREE_BETWEEN, "as it is")
    assert kept - before > 0.9 * (filled - before)
    before, filled, after = run(FREE_BETWEEN, "settled")
    assert after - before < 0.1 * (filled - before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere the C library cannot be asked")
def test_what_the_c_library_keeps_is_given_back():
    before, filled, kept, after = run(FREE_MOST)
    assert kept - before > 0.9 * (filled - before)
    assert after - before < 0.1 * (filled - before)
