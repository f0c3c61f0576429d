"""Installs a wheel in empty environments, alone and with each of its extras, and tries what each brings.

It needs uv, and the Pythons that are asked for. An extra's trial is the program ``try_EXTRA.py`` of this folder, which
the environment's own Python runs in an empty folder.

    python tests/installation/run.py dist/composer_copypaste-*.whl
    python tests/installation/run.py dist/composer_copypaste-*.whl --python 3.13 --only core timm
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
OTHERS = {"test", "dev", "docs"}
"""Extras for those who work on the package itself: `make test` and its like install them."""

NEED_OLD_PYTHON = {"composer", "loggers"}
"""Extras that bring Composer, which needs Python below 3.13."""

SHOWN = ("torch", "torchvision", "numpy", "mosaicml", "mosaicml-streaming", "lightning", "distributed", "timm", "onnx",
         "onnxruntime", "tensorboard", "wandb", "mlflow")  # fmt: skip
"""Packages whose versions are printed."""


def extras_of_project() -> list[str]:
    """The names of the extras for users, "core" first, which stands for none."""
    project = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return ["core", *(name for name in project["optional-dependencies"] if name not in OTHERS)]


def try_extra(wheel: Path, extra: str, python: str, uv: str) -> str | None:
    """Install and try an extra in an environment that is removed again; what failed, or None."""
    with tempfile.TemporaryDirectory(prefix=f"{extra}-{python}-") as folder:
        environment, work = Path(folder, "environment"), Path(folder, "work")
        work.mkdir()
        own_python = environment / "bin" / "python"
        target = str(wheel) if extra == "core" else f"{wheel}[{extra}]"
        steps = [
            [uv, "venv", "--quiet", "--python", python, str(environment)],
            [uv, "pip", "install", "--quiet", "--python", str(own_python), target],
            [uv, "pip", "check", "--quiet", "--python", str(own_python)],
            [str(own_python), str(HERE / f"try_{extra}.py")],
        ]
        path = os.pathsep.join([str(environment / "bin"), os.environ["PATH"]])
        variables = {**os.environ, "PATH": path, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "default"}
        for step in steps:
            done = subprocess.run(step, cwd=work, env=variables, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"{' '.join(step)}\n{done.stdout}{done.stderr}"
        print("  " + ", ".join(installed_versions(uv, own_python)))
        return None


def installed_versions(uv: str, python: Path) -> list[str]:
    """The versions of the packages that matter."""
    listed = subprocess.run([uv, "pip", "freeze", "--python", str(python)], capture_output=True, text=True, check=True)
    return [line.replace("==", " ") for line in listed.stdout.splitlines() if line.partition("==")[0] in SHOWN]


def main() -> int:
    """Try all that is asked for; the exit code is 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--only", nargs="+", choices=extras_of_project(), default=extras_of_project(), metavar="EXTRA")
    parser.add_argument("--python", nargs="+", default=["3.11"], metavar="VERSION")
    parser.add_argument("--uv", type=Path, default=shutil.which("uv"))
    asked = parser.parse_args()
    pairs = [(extra, python) for python in asked.python for extra in asked.only]
    failed = 0
    for extra, python in pairs:
        if extra in NEED_OLD_PYTHON and python not in {"3.11", "3.12"}:
            continue
        begin = time.monotonic()
        problem = try_extra(asked.wheel.resolve(), extra, python, str(asked.uv.absolute()))
        print(f"{extra} on Python {python}: {'failed' if problem else 'works'} ({time.monotonic() - begin:.0f} s)")
        if problem:
            failed += 1
            print(problem)
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
