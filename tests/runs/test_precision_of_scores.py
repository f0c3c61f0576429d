"""A trained model under autocast scores what it scores in float32."""

import pytest
import torch

from composer_copypaste import CocoInstances, CocoMeanAveragePrecision, MaskRCNN, evaluation_data_spec
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import train

pytestmark = pytest.mark.slow

WITH_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training of a minute: the folder, and the images it is scored on."""
    root = tmp_path_factory.mktemp("run")
    shapes = {"folder": root / "shapes", "size": 96, "train": 160, "val": 192}
    overrides = [f"data.shapes.{name}={value}" for name, value in shapes.items()]
    times = ["training.duration=200ba", "training.eval_interval=200ba", "schedule.warmup=16ba", "optimizer.lr=3e-3"]
    train(load_recipe("quickstart", [*overrides, *times, "copy_paste=null"]), folder := RunFolder(root / "run"))
    val = root / "shapes" / "annotations" / "instances_val.json"
    return folder, CocoInstances(root / "shapes" / "val", val, masks=False)


def scores(run, device, precision=None):
    folder, data = run
    settings = {"backbone": "small", "weights": str(folder.latest_checkpoint)}
    model = MaskRCNN(num_classes=data.annotations.num_classes, **settings).to(device).eval()
    metric = CocoMeanAveragePrecision(data.annotations.path, category_ids=data.annotations.category_ids)
    for images, targets in evaluation_data_spec(data, batch_size=8).dataloader:
        on_device = [image.to(device) for image in images]
        with torch.autocast(device, precision, enabled=precision is not None):
            metric.update(model.eval_forward((on_device, targets)), targets)
    found = metric.compute()
    return {name: float(found[name]) for name in ("bbox/AP", "segm/AP")}


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", torch.bfloat16),
        pytest.param("cuda", torch.bfloat16, marks=WITH_GPU),
        pytest.param("cuda", torch.float16, marks=WITH_GPU),
    ],
)
def test_lower_precision_scores_as_float32_does(run, device, precision):
    full = scores(run, device)
    assert min(full.values()) > 0.1
    assert scores(run, device, precision) == pytest.approx(full, abs=0.002)
