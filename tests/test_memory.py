import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
BEGIN = """
import resource
import torch
from captioning.training.memory import keep_freed_memory, peak_memory

keep_freed_memory()
"""
OF_STEPS = """
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(4, 1024, 1024) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*(faults() for _ in range(6)))
"""
OFTEN = """
small = []
for _ in range(20):
    torch.ones(64, 1024, 1024)
    small.append([{} for _ in range(1000)])
    small.append(torch.ones(100))
print(peak_memory(torch.device("cpu")))
"""


def printed(program: str) -> list[int]:
    """By a process of its own, whose memory nothing else bends."""
    ran = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, check=True)
    return [int(number) for number in ran.stdout.split()]


def test_memory_that_was_freed_is_used_again_without_asking_the_system():
    first, *_, last = printed(OF_STEPS)
    assert last < first / 4


def test_a_process_does_not_grow_by_large_tensors_that_come_and_go():
    assert printed(OFTEN)[0] < 2e9  # 20 of them are 5.4 GB
