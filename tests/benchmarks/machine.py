"""What machine this is, and what its processes take."""

from __future__ import annotations

import os
import platform
import resource
from pathlib import Path
from typing import Any


def resident_mib() -> float:
    """Memory of this process now, in MiB; where the system does not tell, the most it has been."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return peak_mib()


def peak_mib() -> float:
    """The most memory that this process has had on the host, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def describe() -> dict[str, Any]:
    """Processor, memory, devices and versions; starts jax."""
    import jax

    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": models[0] if models else platform.processor(),
        "cores": cores,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": [round(x, 1) for x in os.getloadavg()],
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "device_memory_gib": round(limit / 2**30, 1) if limit else None,
        "python": platform.python_version(),
        "jax": jax.__version__,
    }
