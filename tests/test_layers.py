"""The package's layers: what may import what."""

import ast
import re
from pathlib import Path

import pytest

import composer_copypaste

ROOT = Path(composer_copypaste.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
LAYERS = ["cli", "runs", "integrations", "recipes", "visualize", "metrics", "models", "data", "functional", ""]
"""Each imports only from itself and from those after it; the last is the modules of the package's own folder."""
FRAMEWORKS = {
    "composer": "integrations/composer/",
    "dask": "integrations/dask.py",
    "distributed": "integrations/dask.py",
    "detectron2": "integrations/detectron2/",
    "lightning": "integrations/lightning.py",
    "pytorch_lightning": "integrations/lightning.py",
    "streaming": "data/streaming/",
    "onnx": "integrations/onnx.py",
    "onnxruntime": "integrations/onnx.py",
    "timm": "models/timm.py",
}
"""Where each may be imported."""


def layer_of(module: str) -> str:
    """The layer of a path such as data/rle.py, or of a name such as data.rle."""
    first = re.split(r"[/.]", module.removesuffix(".py"))
    return first[0] if first[0] in LAYERS and (len(first) > 1 or first[0] == "cli") else ""


def imported(module: str) -> set[str]:
    """The names of all modules that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= (
                {node.module}
                if node.module != "composer_copypaste"
                else {f"{node.module}.{a.name}" for a in node.names}
            )
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("module", MODULES)
def test_a_layer_imports_only_itself_and_those_below(module):
    below = LAYERS[LAYERS.index(layer_of(module)) :]
    own = {
        name.removeprefix("composer_copypaste.") for name in imported(module) if name.startswith("composer_copypaste.")
    }
    assert [name for name in own if layer_of(name) not in below] == []


@pytest.mark.parametrize("module", MODULES)
def test_a_framework_is_imported_only_where_it_belongs(module):
    frameworks = {name.partition(".")[0] for name in imported(module)} & set(FRAMEWORKS)
    assert [name for name in frameworks if not module.startswith(FRAMEWORKS[name])] == []


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("functional/")])
def test_the_augmentation_imports_no_framework(module):
    assert not {name.partition(".")[0] for name in imported(module)} & {"torchvision", "PIL", "pycocotools", "pydantic"}


WITH_COMPOSER = (
    "integrations/composer/",
    "integrations/detectron2/model.py",
    "cli/train.py",
    "runs/train.py",
    "runs/resume.py",
    "runs/dry_run.py",
    "runs/evaluation/run.py",
)
"""What may import our modules for Composer, which only an extra brings; all else works without it."""


@pytest.mark.parametrize("module", MODULES)
def test_only_what_trains_imports_what_needs_composer(module):
    if not module.startswith(WITH_COMPOSER):
        assert [name for name in imported(module) if "integrations.composer" in name] == []


def test_the_map_of_the_augmentation_names_each_of_its_modules():
    described = set(re.findall(r"``(?:engines/)?(\w+\.py)``", (ROOT / "functional/__init__.py").read_text()))
    assert described == {path.name for path in (ROOT / "functional").rglob("*.py")} - {"__init__.py"}
