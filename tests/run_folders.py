"""What a run's folder holds, for the tests that compare two runs."""

import json

import torch

from composer_copypaste.integrations.composer.loggers import MACHINE_KEYS


def rows(folder):
    """What was logged of each batch, without the times and other numbers that depend on the machine."""
    found = map(json.loads, folder.metrics.read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith(MACHINE_KEYS)} for row in found]


def state(folder):
    """The state in its latest checkpoint."""
    return torch.load(folder.latest_checkpoint, weights_only=False)["state"]


def assert_same_to_the_bit(run, reference):
    """They hold the same files, rows, scores, images, weights and states of optimizer and schedule."""
    assert rows(run) == rows(reference)
    assert {path.name for path in run.root.rglob("*")} == {path.name for path in reference.root.rglob("*")}
    images = ("training_pictures.png", "predictions.png", "curves.png")
    for name in ("evaluation.json", "matches.npz", "categories.json", *images):
        assert (run.root / name).read_bytes() == (reference.root / name).read_bytes(), name
    one, other = state(run), state(reference)
    for part in ("model", "optimizers", "schedulers"):
        assert same(one[part], other[part]), part


def same(one, other):
    """Whether two nested values are equal, tensors to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
