"""What the work ran on."""

import os
import platform
import resource
from pathlib import Path

import torch

MEBI = 2**20


def hardware(device: torch.device, world_size: int) -> str:
    """What the work ran on, in words."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return name if world_size == 1 else f"{world_size} processes on {name}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory(device: torch.device) -> float:
    """Largest memory so far, in MiB: the device's, or the process's on a CPU."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / MEBI, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
