"""Where Numba is missing or cannot compile, torch copies and pastes on the CPU to the same pixels, and says so once."""

import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from numba.core import config as numba_config
from numba.core.errors import LoweringError

from composer_copypaste import CopyPasteSettings, copypaste_batch
from composer_copypaste.data.outlines import polygons_of_mask, without_holes
from composer_copypaste.data.rle import CroppedMask
from composer_copypaste.errors import MissingPackageError, SlowWarning
from composer_copypaste.functional.engines import compilation, engine, numba_memory

SETTINGS = CopyPasteSettings(p=1.0, rotation=30.0)


def pasted():
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (3, 3, 40, 56), dtype=torch.uint8, generator=generator)
    targets = []
    for image in range(3):
        masks = torch.zeros((4, 40, 56), dtype=torch.uint8)
        for mask in range(4):
            masks[mask, 5 * mask : 5 * mask + 12, 9 * mask + image : 9 * mask + image + 14] = 1
        boxes = [[9 * k + image, 5 * k, 9 * k + image + 14, 5 * k + 12] for k in range(4)]
        targets.append({"boxes": torch.tensor(boxes).float(), "labels": torch.arange(1, 5), "masks": masks})
    maps = (images[:, 0] // 64).long()
    found = copypaste_batch(images, targets, settings=SETTINGS, generator=torch.Generator().manual_seed(1))
    classes = copypaste_batch(images, maps, settings=SETTINGS, generator=torch.Generator().manual_seed(2))
    return [found[0], *(value for target in found[1] for value in target.values()), *classes]


def outlines():
    mask = np.zeros((9, 8), np.uint8)
    mask[2:7, 1:6], mask[4, 3], mask[8, 7] = 1, 0, 1
    return polygons_of_mask(without_holes(CroppedMask(3, 4, mask)))


WITHOUT_NUMBA = f"""
import sys
sys.modules["numba"] = None  # cannot be imported, as where it is not installed
import warnings
import numpy as np
import torch
from composer_copypaste import CopyPasteSettings, copypaste_batch
from composer_copypaste.data.outlines import polygons_of_mask, without_holes
from composer_copypaste.data.rle import CroppedMask
SETTINGS = CopyPasteSettings(p=1.0, rotation=30.0)
{inspect.getsource(pasted)}
{inspect.getsource(outlines)}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    torch.save(pasted(), sys.argv[1])
print(outlines())
for each in said:
    print(f"{{each.category.__name__}}: {{each.message}}")
"""


def broken(monkeypatch, error):
    """Let compiling fail as it does on a machine for which Numba makes no code."""

    def fail(*_):
        raise error

    compilation.numba_problem.cache_clear()
    compilation.can_compile.cache_clear()
    monkeypatch.setattr(numba_memory, "values_at", fail)


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_compiled_now_is_logged_once_for_each_package(is_kept, monkeypatch, caplog, tmp_path):
    compilation._log_once.cache_clear()
    caplog.set_level("INFO", compilation.log.name)

    def one_more(number):
        return number + 1

    for name in ("metrics.matching", "metrics.scores", "data.outlines", "elsewhere"):
        monkeypatch.setattr(numba_config, "CACHE_DIR", str(tmp_path / name))  # where nothing is compiled yet
        one_more.__module__ = f"composer_copypaste.{name}" if name != "elsewhere" else name
        function = compilation.compiled(one_more) if is_kept else compilation.njit(one_more)
        assert [function(1), function(2), function(0.5)] == [2, 3, 1.5]
    how_often = "once: it is kept on the disk" if is_kept else "in each process: no folder can be written to"
    parts = ["COCO's scores", "the drawing of outlines"]
    assert caplog.messages == [f"compiling {part} for this processor, some seconds, {how_often}" for part in parts]


def test_each_package_with_compiled_functions_has_words_for_what_they_do():
    root = Path(compilation.__file__).parents[2]
    compiling = {path.relative_to(root).parts[0] for path in root.rglob("*.py") if "\n@compiled\n" in path.read_text()}
    assert compiling == compilation.WHAT_IS_COMPILED.keys()


@pytest.fixture(autouse=True)
def found_anew():
    yield
    compilation.numba_problem.cache_clear()
    compilation.can_compile.cache_clear()


def test_where_numba_cannot_compile_torch_takes_its_place_and_says_so_once(monkeypatch):
    expected = pasted()
    broken(monkeypatch, LoweringError("no code\nfor \x1b[1mthis\x1b[0m machine"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = pasted() and pasted()
    assert isinstance(engine.engine_for(torch.device("cpu")), engine.TorchEngine)
    assert all(map(torch.equal, found, expected))
    (warning,) = said
    assert warning.category is SlowWarning
    assert str(warning.message) == (
        "Numba does not work here (no code for this machine): copy-paste on the CPU is done by torch, and takes "
        "several times as long"
    )
    with pytest.raises(MissingPackageError, match=r"^offline data sets need Numba, which does not work here"):
        compilation.check_can_compile("offline data sets")


def test_where_numba_is_missing_all_is_the_same(tmp_path):
    command = [sys.executable, "-c", WITHOUT_NUMBA, str(tmp_path / "found.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    outline, *said = done.stdout.splitlines()
    assert outline == outlines()
    (warning,) = said
    assert warning.startswith("SlowWarning: Numba does not work here (import of numba halted; None in sys.modules): ")
    assert all(map(torch.equal, torch.load(tmp_path / "found.pt"), pasted()))


def test_rows_of_tables_have_attributes_where_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(compilation, "njit", None)
    table = np.zeros(3, [("width", np.int64), ("window", np.int64, 4)])

    @compilation.compiled
    def fill(rows, numbers):
        for k in range(len(rows)):
            rows[k].width = numbers[k]
            rows[k].window[1] = np.uint8(255) + np.uint8(numbers[k])

    fill(table, np.array([1, 2, 3]))
    assert table["width"].tolist() == [1, 2, 3]
    assert table["window"][:, 1].tolist() == [0, 1, 2]
