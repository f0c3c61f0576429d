"""Fixtures of several folders; and for all tests, Triton runs its kernels in its interpreter where there is no GPU."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from coco_files import annotation
from hypothesis import HealthCheck
from PIL import Image
from torch.utils.data._utils import signal_handling

from composer_copypaste import processes
from composer_copypaste.extras import is_installed

NEED_COMPOSER = [
    "integrations/composer",
    "integrations/test_detectron2_missing.py",
    "models/test_box_detectors.py",
    "cli/test_ablate.py",
    "cli/test_eval.py",
    "cli/test_train.py",
    "data/streaming/test_streaming.py",
    "data/test_loaders.py",
    "functional/test_category_names.py",
    "metrics/test_coco_map_in_composer.py",
    "models/test_class_rows.py",
    "models/test_detectron2_weights.py",
    "models/test_mask_loss.py",
    "models/test_timm.py",
    "models/test_weights.py",
    "runs/test_ablation_plan.py",
    "runs/test_ablations.py",
    "runs/test_best_and_early.py",
    "runs/test_describe_file.py",
    "runs/test_dry_run.py",
    "runs/test_export_detectron2.py",
    "runs/test_export_models.py",
    "runs/test_killed_runs.py",
    "runs/test_pools.py",
    "runs/test_precision_of_scores.py",
    "runs/test_predict_in_python.py",
    "runs/test_preview_measures.py",
    "runs/test_preview_page.py",
    "runs/test_streaming_runs.py",
    "runs/test_tampered_runs.py",
    "runs/test_training.py",
    "runs/test_training_process.py",
    "test_docs.py",
    "test_troubleshooting.py",
    "test_notebook.py",
    "test_times.py",
]
"""Tests that need Composer, also in what they import of other tests: `make test-core` is without it, and leaves them
out. Of other modules it leaves out the tests with the mark `composer`."""

collect_ignore = [] if is_installed("composer") else NEED_COMPOSER

# drawn batches are large, and no test fails because a machine is slow
hypothesis.settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
hypothesis.settings.load_profile("any machine")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the module with the kernels is imported


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out tests that need Composer where it is not installed."""
    if not is_installed("composer"):
        for item in items:
            if item.get_closest_marker("composer"):
                item.add_marker(pytest.mark.skip(reason="needs Composer"))


@pytest.fixture(autouse=True)
def handler_of_ended_processes():
    """Lets torch handle loading processes that end again, after a command that was stopped has taken that away."""
    yield
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL:
        signal_handling._SIGCHLD_handler_set = False


@pytest.fixture
def forked_executors(monkeypatch):
    """The processes of an executor are copies of this one, which saves the seconds of their imports."""
    monkeypatch.setattr(processes, "get_context", lambda method: multiprocessing.get_context("fork"))


@pytest.fixture
def coco_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes annotations.json: an image 7, 12 wide and 8 high, categories 5 and 3, unless told otherwise."""

    def write(*annotations: object, **changes: object) -> Path:
        data: dict[str, object] = {
            "images": [{"id": 7, "file_name": "7.png", "height": 8, "width": 12}],
            "categories": [{"id": 5, "name": "nut"}, {"id": 3, "name": "fig"}],
            "annotations": list(annotations) or [annotation()],
        }
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps({key: value for key, value in (data | changes).items() if value is not None}))
        return path

    return write


@pytest.fixture
def gradient(tmp_path: Path) -> np.ndarray:
    """The pixels of 7.png, every one different, written beside the annotations."""
    pixels = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    Image.fromarray(pixels).save(tmp_path / "7.png")
    return pixels


@pytest.fixture
def small_model():
    from composer_copypaste import MaskRCNN

    torch.manual_seed(0)
    return MaskRCNN(num_classes=3, backbone="small", resize_training=False)


@pytest.fixture
def batch():
    """Two images of 64 pixels: the first with an object and a crowd, the second with an object."""
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 10:30, 8:40] = 1
    masks[1, 40:60, 20:50] = 1
    boxes = torch.tensor([[8.0, 10.0, 40.0, 30.0], [20.0, 40.0, 50.0, 60.0]])
    targets = [target(boxes, [1, 2], masks, [0, 1], 7), target(boxes[:1], [1], masks[:1], [0], 9)]
    return torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), targets


def target(boxes, labels, masks, iscrowd, image_id):
    return {
        "boxes": boxes,
        "labels": torch.tensor(labels),
        "masks": masks,
        "area": masks.sum((1, 2)).float(),
        "iscrowd": torch.tensor(iscrowd),
        "image_id": torch.tensor(image_id),
    }
