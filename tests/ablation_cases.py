"""A small ablation on drawn shapes, for the tests of its plan, its runs and its command."""

import json
from pathlib import Path

from shapes_recipe import tiny

from composer_copypaste.recipes.ablation import Ablation, load_ablation
from composer_copypaste.recipes.yaml12 import dump_yaml


def write_ablation(folder: Path, **keys: object) -> Path:
    """The file of an ablation of two runs, two seeds and two fractions of the images, in ``folder``."""
    base, *overrides = tiny(folder)
    common: dict = {}
    for override in overrides:
        place, value = override.split("=")
        *sections, key = place.split(".")
        section = common
        for name in sections:
            section = section.setdefault(name, {})
        section[key] = json.loads(value) if value.isdigit() else value
    runs = {"baseline": {"copy_paste": None}, "pasted": {"copy_paste": {"p": 1.0}}}
    values = {"base": base, "common": common, "runs": runs, "seeds": [1, 2], "fractions": [0.5, 1.0]}
    file = folder / "mine.yaml"
    file.write_text(dump_yaml(values | {"output": str(folder / "out")} | keys))
    return file


def small_ablation(folder: Path, *overrides: str, **keys: object) -> Ablation:
    """The ablation of `write_ablation`."""
    return load_ablation(write_ablation(folder, **keys), overrides)
