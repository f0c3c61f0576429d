"""The method card shows what is drawn today, of every setting."""

import functools
import importlib.util
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composer_copypaste import CopyPasteSettings, LargeScaleJitterSettings

ROOT = Path(__file__).parents[1]
COMMITTED = sorted((ROOT / "docs").glob("*.png"))
UNSEEN = {"object_keys", "keypoint_pairs", "keep_masks", "histogram_interval"}
"""Settings that change no pixel, mask or box."""


@pytest.fixture(scope="module")
def card():
    """The script that draws the card; what it has drawn once, it gives again."""
    sys.path.insert(0, str(ROOT / "examples"))
    spec = importlib.util.spec_from_file_location("method_card", ROOT / "examples" / "method_card.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.SHEETS = {name: functools.cache(draw) for name, draw in module.SHEETS.items()}
    yield module
    sys.path.remove(str(ROOT / "examples"))
    sys.modules.pop("card")


@pytest.fixture(scope="module")
def drawn(card, tmp_path_factory):
    """A folder with all sheets, drawn now."""
    folder = tmp_path_factory.mktemp("card")
    card.write(folder)
    return folder


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_page_on_settings_shows_every_sheet(card):
    assert [path.stem for path in COMMITTED] == sorted(card.SHEETS)
    page = (ROOT / "docs" / "settings.md").read_text()
    assert all(f"]({path.name})" in page for path in COMMITTED)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_a_sheet_is_what_is_drawn_today(path, drawn):
    committed, today = pixels(path), pixels(drawn / path.name)
    assert committed.shape == today.shape, "run: python examples/method_card.py"
    differing = np.abs(committed - today).max(axis=2) > 48  # letters and reduced colors may differ a little
    assert differing.mean() < 0.002, "run: python examples/method_card.py"


def test_the_sheets_are_small():
    sizes = [path.stat().st_size for path in COMMITTED]
    assert max(sizes) < 60_000
    assert sum(sizes) < 400_000


@pytest.mark.parametrize("settings", [CopyPasteSettings, LargeScaleJitterSettings])
def test_every_setting_has_an_image(card, settings):
    of_jitter = settings is LargeScaleJitterSettings
    cells = [
        cell for name, draw in card.SHEETS.items() if (name == "large_scale_jitter") == of_jitter for cell in draw()
    ]
    captions = " ".join(caption for caption, _ in cells)
    shown = {field.name for field in fields(settings) if f"{field.name}=" in captions}
    assert shown == {field.name for field in fields(settings)} - UNSEEN
