"""Time and memory are this process's own."""

import subprocess
import sys
import time

import torch

from tastemaker.runs import Meter, Resources, peak_rss_bytes

CHILD = "from tastemaker.runs import peak_rss_bytes; print(peak_rss_bytes())"


def test_a_meter_counts_work_and_not_sleep_as_processor_time():
    meter = Meter()
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    time.sleep(0.2)
    used = meter.read()
    assert 0.08 <= used.cpu_seconds < 0.25
    assert used.wall_seconds >= 0.29


def test_a_meter_goes_on_from_what_was_used_before():
    before = Resources(wall_seconds=100, cpu_seconds=50, peak_rss_bytes=1 << 60, model_copies=4)
    after = Meter(before, model_copies=2).read()
    assert 100 < after.wall_seconds < 101
    assert 50 <= after.cpu_seconds < 51
    assert after.peak_rss_bytes == 1 << 60
    assert after.model_copies == 4


def test_children_count_in_processor_time():
    meter = Meter()
    subprocess.run([sys.executable, "-S", "-c", "sum(range(10**7))"], check=True)
    assert meter.read().cpu_seconds > 0.05


def test_the_peak_holds_memory_given_back():
    before = peak_rss_bytes()
    block = torch.ones(before // 4 + (100 << 20) // 4)
    del block
    assert peak_rss_bytes() >= before + (50 << 20)


def test_a_child_does_not_inherit_the_peak_of_its_parent():
    block = torch.ones(400 << 20 >> 2)
    result = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    assert 10 << 20 < int(result.stdout) < peak_rss_bytes() - (200 << 20)
    assert len(block)
