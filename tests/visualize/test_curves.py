"""Curves of a training."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from composer_copypaste.visualize.curves import plot_curves, read_series, running_mean


@pytest.fixture
def metrics(tmp_path):
    def write(*rows):
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def a_batch(batch, loss=1.0):
    return {"batch": batch, "loss/train/total": loss, "loss/train/loss_mask": loss, "lr-AdamW/group0": 1e-3}


def an_evaluation(batch):
    return {"batch": batch, "metrics/eval/segm/AP": 0.3, "metrics/eval/segm/AP50": 0.6, "metrics/eval/bbox/AP": 0.4}


def ink(path, panel):
    """How much of a panel (0, 1, 2) is not white."""
    image = np.asarray(Image.open(path).convert("L"))
    borders = [0, 5 / 13, 10 / 13, 1]
    first, last = (int(image.shape[1] * borders[number]) for number in (panel, panel + 1))
    return int((image[:, first:last] < 250).sum())


def test_each_name_becomes_batches_and_values(metrics):
    series = read_series(metrics(a_batch(1, 3.0), a_batch(2, 2.0), an_evaluation(2)))
    assert [values.tolist() for values in series["loss/train/total"]] == [[1, 2], [3, 2]]
    assert [values.tolist() for values in series["metrics/eval/segm/AP"]] == [[2], [0.3]]


def test_values_that_were_not_finite_are_left_out(metrics):
    series = read_series(metrics(a_batch(1), {"batch": 2, "loss/train/total": None}, a_batch(3)))
    assert series["loss/train/total"][0].tolist() == [1, 3]


def test_smoothing_keeps_a_constant_and_is_a_running_mean_inside():
    assert running_mean([2.0] * 7, 3) == pytest.approx([2.0] * 7)
    assert running_mean([0.0, 3.0, 6.0, 0.0], 3) == pytest.approx([1.5, 3.0, 3.0, 3.0])


def test_smoothing_takes_a_series_shorter_than_its_window():
    assert running_mean([1.0, 3.0], 5) == pytest.approx([2.0, 2.0])


def test_losses_scores_and_learning_rate_each_have_a_panel(metrics, tmp_path):
    plot_curves(metrics(*(a_batch(number) for number in range(1, 20))), tmp_path / "losses.png")
    plot_curves(metrics(a_batch(1), an_evaluation(1), an_evaluation(2)), tmp_path / "scores.png")
    assert ink(tmp_path / "losses.png", 1) < ink(tmp_path / "scores.png", 1)


@pytest.mark.parametrize("rows", [[], [a_batch(1)], [an_evaluation(3)], [a_batch(1, 0.0), a_batch(2, 0.0)]])
def test_a_run_that_logged_little_is_drawn_all_the_same(metrics, tmp_path, rows):
    plot_curves(metrics(*rows), tmp_path / "curves.png")
    assert all(ink(tmp_path / "curves.png", panel) > 0 for panel in range(3))


def test_a_panel_without_data_says_so(metrics, tmp_path):
    plot_curves(metrics(a_batch(1), a_batch(2)), tmp_path / "curves.png")
    image = np.asarray(Image.open(tmp_path / "curves.png").convert("L"))
    middle = image[230:280, 800:960]
    assert 100 < (middle < 200).sum() < 2000


def test_a_single_evaluation_is_a_visible_point(metrics, tmp_path):
    plot_curves(metrics(an_evaluation(3)), tmp_path / "curves.png")
    image = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB"))[:, 950:1230]  # right of the legend
    assert (image == (0, 0x72, 0xB2)).all(axis=-1).sum() > 10


def test_a_loss_that_explodes_at_first_does_not_flatten_the_rest(metrics, tmp_path):
    steady = [a_batch(number, 1 + math.sin(number)) for number in range(2, 102)]
    plot_curves(metrics(a_batch(1, 1e6), *steady), tmp_path / "exploded.png")
    plot_curves(metrics(a_batch(1, 1.0), *steady), tmp_path / "steady.png")
    assert ink(tmp_path / "exploded.png", 0) == pytest.approx(ink(tmp_path / "steady.png", 0), rel=0.2)
