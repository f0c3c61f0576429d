"""What ``CopyPaste`` logs at ``histogram_interval``: in a bare ``Trainer``, and by hand."""

import json
from importlib.util import find_spec
from unittest import mock

import numpy as np
import pytest
from composer.core import Timestamp
from composer.loggers import FileLogger, InMemoryLogger, LoggerDestination, TensorboardLogger
from toy_trainings import fit

from composer_copypaste import CopyPaste
from composer_copypaste.functional import copypaste as module
from composer_copypaste.integrations.composer import algorithms
from composer_copypaste.integrations.composer.algorithms import interval_is_due
from composer_copypaste.visualize.paste_histograms import COLUMNS, PasteHistograms

KNOWN = PasteHistograms(
    size=np.array([8.0, 40.0, 600.0, 7.9]),
    visible=np.array([1.0, 0.5, 0.05, 0.1]),
    pasted=np.array([False, False, True, True]),
)


def test_objects_are_counted_in_the_bins_that_hold_them():
    counted = [row for row in KNOWN.rows() if row[3] or row[4]]
    assert counted == [
        ["size", 0, 8, 0, 1],
        ["size", 8, 16, 1, 0],
        ["size", 32, 64, 1, 0],
        ["size", 512, None, 0, 1],
        ["visible", 0, 0.1, 0, 1],
        ["visible", 0.1, 0.2, 0, 1],
        ["visible", 0.5, 0.6, 1, 0],
        ["visible", 0.9, 1, 1, 0],
    ]


def test_scalars_are_of_the_kinds_that_there_are():
    assert KNOWN.scalars() == pytest.approx(
        {
            "size_median/own": 24,
            "visible_mean/own": 0.75,
            "size_median/pasted": 303.95,
            "visible_mean/pasted": 0.075,
        }
    )
    assert PasteHistograms(*(values[:2] for values in vars(KNOWN).values())).scalars().keys() == {
        "size_median/own",
        "visible_mean/own",
    }


class Noted(LoggerDestination):
    """Notes tables, images and scalars with the batch in which they came."""

    def __init__(self):
        self.tables, self.images, self.scalars = [], [], {}

    def log_table(self, columns, rows, name="Table", step=None):
        self.tables.append((name, step, columns, rows))

    def log_images(self, images, name="Images", *options):
        self.images.append((name, images.shape, images.dtype))

    def log_metrics(self, metrics, step=None):
        self.scalars |= metrics


@pytest.fixture
def with_pandas(monkeypatch):
    """Tables are logged, as where pandas is installed."""
    monkeypatch.setattr(algorithms, "find_spec", lambda name: name == "pandas" or None)


def test_they_are_logged_at_the_interval_and_nothing_is_counted_in_other_batches(with_pandas):
    noted = Noted()
    with mock.patch.object(module, "with_counted_pixels", wraps=module.with_counted_pixels) as counted:
        fit(CopyPaste(p=1.0, histogram_interval="2ba"), duration="4ba", loggers=[noted])
    assert counted.call_count == 2
    assert [(name, step) for name, step, *_ in noted.tables] == [("copy_paste/histograms", step) for step in (0, 2)]
    _, _, columns, rows = noted.tables[0]
    assert tuple(columns) == COLUMNS
    assert sum(row[4] for row in rows if row[0] == "visible") > 0
    assert [name for name, *_ in noted.images] == ["copy_paste/histograms"] * 2
    assert noted.images[0][1][2] == 3
    assert noted.images[0][2] == np.uint8
    assert {"copy_paste/size_median/own", "copy_paste/visible_mean/pasted"} <= noted.scalars.keys()


def test_without_an_interval_nothing_more_is_logged():
    noted = Noted()
    fit(CopyPaste(p=1.0), duration="1ba", loggers=[noted])
    assert not noted.tables
    assert not noted.images
    assert not any("median" in name for name in noted.scalars)


def test_composers_own_loggers_take_them_with_and_without_pandas(tmp_path):
    in_memory = InMemoryLogger()
    loggers = [
        in_memory,
        FileLogger(filename=str(tmp_path / "log.txt"), remote_file_name=None),
        TensorboardLogger(log_dir=str(tmp_path / "tensorboard")),
    ]
    fit(CopyPaste(p=1.0, histogram_interval="1ep"), duration="1ba", loggers=loggers)
    assert "copy_paste/visible_mean/pasted" in in_memory.data
    (events,) = (tmp_path / "tensorboard").rglob("events*")
    assert b"copy_paste/histograms" in events.read_bytes()
    if find_spec("pandas") is not None:
        assert json.loads(in_memory.tables["copy_paste/histograms"])["columns"] == list(COLUMNS)


@pytest.mark.parametrize(
    ("interval", "batch", "epoch", "in_epoch", "due"),
    [("3ba", 3, 0, 3, True), ("3ba", 4, 0, 4, False), ("2ep", 8, 2, 0, True), ("2ep", 9, 2, 1, False)],
)
def test_an_interval_begins_with_the_first_batch(interval, batch, epoch, in_epoch, due):
    assert interval_is_due(interval, Timestamp(epoch=epoch, batch=batch, batch_in_epoch=in_epoch)) is due
