"""The package's layers: what may import what."""

import ast
import re
from pathlib import Path

import pytest

import composer_copypaste

ROOT = Path(composer_copypaste.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
CORE = ("functional/", "settings.py", "limits.py", "times.py", "instances.py", "errors.py", "tv_tensors.py")


def imported_from_the_package(module: str) -> set[str]:
    """The package's own modules that a module imports, anywhere in it, without those for type checkers."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    prefix = "composer_copypaste."
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(CORE)])
def test_the_core_imports_nothing_of_ours_but_itself(module):
    for name in imported_from_the_package(module):
        assert name.split(".")[0] in {"functional", "settings", "limits", "times", "instances", "errors", "tv_tensors"}


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("functional/")])
def test_the_augmentation_imports_no_framework(module):
    tree = ast.parse((ROOT / module).read_text())
    plain = [alias for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported = {alias.name.split(".")[0] for alias in plain}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"composer", "torchvision", "PIL", "pycocotools"}


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("cli/") and m != "__init__.py"])
def test_nobody_imports_the_command_line(module):
    assert not any(name == "cli" or name.startswith("cli.") for name in imported_from_the_package(module))


def test_the_map_of_the_augmentation_names_each_of_its_modules():
    described = set(re.findall(r"``(\w+\.py)``", (ROOT / "functional/__init__.py").read_text()))
    assert described == {path.name for path in (ROOT / "functional").glob("*.py")} - {"__init__.py"}
