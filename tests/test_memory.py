"""Freed memory stays with the process, so that the next step does not fetch it page by page."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource, sys
from distill.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
import numpy as np
def step():
    blocks = [np.ones(1 << 20) for _ in range(8)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    command = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_memory_that_is_asked_for_again_costs_no_page_faults() -> None:
    kept = faults("keep")
    assert kept < 100
    assert kept < faults("give back") / 10
