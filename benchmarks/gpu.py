"""Run all tests and benchmarks that need a GPU, one after the other, and summarise the results.

    python benchmarks/gpu.py [--minutes 10]

The fastest come first: kernels, copy-paste compared with the CPU's, its speed, its share of a training step, and last
whole trainings. When the time is over, the running step is stopped, and the summary says which are not done.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
STEPS = {
    "kernels": ["-m", "pytest", "-k", "not numba", "tests/functional/engines/test_kernels.py"],
    "copy-paste": ["-m", "pytest", "-m", "gpu", "tests/functional"],
    "speed": ["benchmarks/peers.py", "--case", "16x1024x20"],
    "step, float32": ["benchmarks/step.py", "--rounds", "2"],
    "step, bfloat16": ["benchmarks/step.py", "--rounds", "2", "--bf16"],
    "trainings": ["-m", "pytest", "-m", "gpu", "tests/integrations"],
    "scores": ["-m", "pytest", "-m", "gpu", "tests/runs"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="time for all steps (default: %(default)s)")
    end = time.monotonic() + 60 * parser.parse_args(arguments).minutes
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU")
    found = {name: run(name, command, end) for name, command in STEPS.items()}
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for name, result in found.items():
        print(f"{name:16}{result}")
    sys.exit(any(not result.startswith("done") for result in found.values()))


def run(name: str, command: Sequence[str], end: float) -> str:
    """Run Python with the command until ``end`` at most; the result in words."""
    print(f"\n--- {name}: python {' '.join(command)}", flush=True)
    start = time.monotonic()
    try:
        code = subprocess.run([sys.executable, *command], cwd=ROOT, timeout=max(1, end - start), check=False).returncode
    except subprocess.TimeoutExpired:
        return "not done: out of time"
    return f"{f'failed with code {code}' if code else 'done'} in {time.monotonic() - start:.0f} s"


if __name__ == "__main__":
    main()
