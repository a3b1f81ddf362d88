"""What a run was computed on."""

import os
import platform
import shutil
import subprocess

HARDWARE_FIELDS = ("cpu", "cores", "threads", "gpu")


def describe_hardware() -> dict[str, str | int]:
    """``cpu``, ``cores`` that this process may use, ``threads`` of the numeric libraries, ``gpu`` or nothing."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return {"cpu": _cpu_model(), "cores": cores, "threads": int(threads) if threads.isdigit() else cores,
            "gpu": _gpus()}


def _cpu_model() -> str:
    command = {"Linux": ["lscpu"], "Darwin": ["sysctl", "machdep.cpu.brand_string"]}.get(platform.system(), [])
    if command and shutil.which(command[0]):
        lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith(("Model name:", "machdep."))]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _gpus() -> str:
    if os.environ.get("SIDFLOW_DEVICE", "auto") == "cpu" or not shutil.which("nvidia-smi"):
        return ""
    done = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True,
                          check=False)
    return ", ".join(done.stdout.split("\n")).strip(", ") if done.returncode == 0 else ""
