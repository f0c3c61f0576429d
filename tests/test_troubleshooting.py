"""The messages that docs/troubleshooting.md explains are those that are printed."""

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from doc_pages import DOCS
from PIL import Image

from composer_copypaste import CocoInstances, MaskRCNN, NothingPastedWarning, copypaste_batch
from composer_copypaste.cli import main
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.settings import ShapesSettings

QUOTED = re.findall(r"^```text\n(.*?)\n```", (DOCS / "troubleshooting.md").read_text(), re.DOTALL | re.MULTILINE)
GIVEN = {
    "data.train.images": "photos/train",
    "data.train.annotations": "train.json",
    "data.val.images": "photos/val",
    "data.val.annotations": "val.json",
    "model.weights": "none",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A data set, and files of it that are wrong in one way each."""
    folder = tmp_path_factory.mktemp("messages")
    shapes = draw_shapes(ShapesSettings(folder=str(folder / "photos"), train=8, val=4, size=64))
    for split in ("train", "val"):
        (folder / f"{split}.json").symlink_to(shapes / "annotations" / f"instances_{split}.json")
    write_changed(folder / "crowds.json", annotations=lambda one: one | {"iscrowd": 1})
    write_changed(folder / "corners.json", annotations=with_corners)
    write_changed(folder / "names.json", images=lambda one: one | {"file_name": f"../upload/x_{one['file_name']}"})
    write_changed(folder / "other.json", "val.json", categories=renamed)
    write_changed(folder / "deep.json", images=lambda one: one | ({"file_name": "dark.png"} if one["id"] == 1 else {}))
    Image.fromarray(np.full((64, 64), 4095, np.uint16)).save(folder / "photos/train/dark.png")
    (folder / "runs/old").mkdir(parents=True)
    (folder / "runs/old/notes.txt").write_text("mine")
    return folder


def write_changed(path, source="train.json", **changes):
    """A copy of a file, with a function applied to each item of some of its lists."""
    data = json.loads((path.parent / source).read_text())
    path.write_text(json.dumps(data | {key: [change(one) for one in data[key]] for key, change in changes.items()}))


def with_corners(one):
    x, y, width, height = one["bbox"]
    return one | {"bbox": [x, y, x + width, y + height]}


def renamed(category):
    return category | {"name": "circle"} if category["name"] == "disc" else category


def command(*arguments):
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 2, result.output
    return result.output


def train(**changes):
    values = GIVEN | {key.replace("__", "."): value for key, value in changes.items()}
    return command("train", "finetune", *(f"{key}={value}" for key, value in values.items()), "--dry-run")


def paste(count=2, change=lambda target: {}, **settings):
    """The message of copy-paste on the first images, of which the last one's target is changed."""
    images, targets = zip(*(CocoInstances("photos/train", "train.json")[index] for index in range(count)), strict=True)
    with pytest.raises(ValueError) as found:
        copypaste_batch(images, [*targets[:-1], targets[-1] | change(targets[-1])], p=1.0, **settings)
    return str(found.value)


def paste_alone():
    image, target = CocoInstances("photos/train", "train.json")[0]
    with pytest.warns(NothingPastedWarning) as found:
        copypaste_batch([image], [target], p=1.0)
    return str(found[0].message)


def paste_without_masks():
    images, targets = zip(*(CocoInstances("photos/train", "train.json")[index] for index in range(2)), strict=True)
    with pytest.raises(ValueError) as found:
        copypaste_batch(images, [targets[0], {key: targets[1][key] for key in ("boxes", "labels")}], p=1.0)
    return str(found.value)


def paste_rotated_boxes():
    return paste(1, lambda target: {"obb": torch.zeros(len(target["labels"]), 5)})


def learn_too_many_labels():
    image, target = CocoInstances("photos/train", "train.json")[0]
    with pytest.raises(ValueError) as found:
        MaskRCNN(num_classes=3, backbone="small").train().forward(([image], [target]))
    return str(found.value)


PRINTED = [
    partial(train, data__train__annotations="crowds.json"),
    partial(train, data__train__annotations="corners.json"),
    partial(train, data__train__annotations="names.json"),
    partial(train, data__val__annotations="other.json"),
    partial(train, data__train__annotations="deep.json"),
    partial(train, optimizer__learning_rate="0.1"),
    partial(train, data__batch_size="1"),
    partial(command, "train", "fintune"),
    partial(train, output="runs/old"),
    paste_alone,
    paste_rotated_boxes,
    paste_without_masks,
    partial(paste, change=lambda target: {"masks": target["masks"][:, :8]}),
    learn_too_many_labels,
    partial(paste, bank_size=4),
    partial(command, "eval", "runs/none"),
]
"""What prints each message, in the order of the page."""


@pytest.mark.parametrize(
    ("quoted", "printed"), list(zip(QUOTED, PRINTED, strict=True)), ids=[text[:20] for text in QUOTED]
)
def test_a_quoted_message_is_what_is_printed(quoted, printed, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    assert quoted in printed().splitlines() or f"error: {quoted}" in printed().splitlines()
