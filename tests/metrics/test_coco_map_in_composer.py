import pytest
import torch
from composer import DataSpec, Trainer
from composer.callbacks import EarlyStopper
from composer.core import Evaluator
from composer.loggers import InMemoryLogger, TensorboardLogger
from composer.models import ComposerModel
from metric_scenes import CATEGORY_IDS, NAMES, random_scene
from torch.utils.data import DataLoader

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

pytestmark = pytest.mark.filterwarnings("ignore")


class Oracle(ComposerModel):
    """Gives the detections that its batch carries, and learns nothing."""

    def __init__(self, metric):
        super().__init__()
        self.metric = metric
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, batch):
        return self.weight.sum()

    def loss(self, outputs, batch):
        return outputs

    def eval_forward(self, batch, outputs=None):
        return batch[0]

    def get_metrics(self, is_train):
        return {} if is_train else self.metric.scalars()

    def update_metric(self, batch, outputs, metric):
        metric.update(outputs, batch[1])


def loader():
    scene = random_scene()
    pairs = [*zip(scene.predictions, scene.targets, strict=True)]
    batches = DataLoader(pairs, batch_size=4, collate_fn=lambda items: tuple(map(list, zip(*items, strict=True))))
    return DataSpec(batches, get_num_samples_in_batch=lambda batch: len(batch[1]), split_batch=lambda batch, _: [batch])


def trainer(**options):
    return Trainer(
        model=Oracle(CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)),
        train_dataloader=loader(),
        eval_dataloader=options.pop("eval_dataloader", None) or loader(),
        optimizers=options.pop("optimizers", None),
        max_duration="2ep",
        device="cpu",
        progress_bar=False,
        **options,
    )


def expected():
    scene = random_scene()
    metric = CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)
    metric.update(scene.predictions, scene.targets)
    return {name: float(value) for name, value in metric.compute().items()}


def test_an_evaluation_logs_each_number_as_a_scalar():
    logger = InMemoryLogger()
    run = trainer(loggers=[logger])

    run.eval()

    logged = {name: float(logger.data[f"metrics/eval/{name}"][-1][1]) for name in expected()}
    assert len(logged) == 2 * len(NAMES)
    assert logged == pytest.approx(expected(), abs=1e-12)


def test_every_evaluation_of_a_training_starts_empty():
    logger = InMemoryLogger()

    trainer(loggers=[logger]).fit()

    values = [float(value) for _, value in logger.data["metrics/eval/segm/AP"]]
    assert values == pytest.approx([expected()["segm/AP"]] * 2, abs=1e-12)


def test_an_evaluator_may_ask_for_some_of_the_numbers():
    run = trainer(eval_dataloader=[Evaluator(label="val", dataloader=loader(), metric_names=["segm/AP50"])])

    run.eval()

    assert {name: float(metric.compute()) for name, metric in run.state.eval_metrics["val"].items()} == pytest.approx(
        {"segm/AP50": expected()["segm/AP50"]}
    )


def test_the_early_stopper_ends_a_training_whose_mask_ap_does_not_rise():
    run = trainer(callbacks=[EarlyStopper("segm/AP", dataloader_label="eval", patience="1ep")])

    run.fit(duration="9ep")

    assert run.state.timestamp.epoch == 3


def test_tensorboard_takes_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trainer(loggers=[TensorboardLogger(str(tmp_path))], run_name="run")

    run.fit()
    run.close()

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert events.Scalars("metrics/eval/segm/AP")[-1].value == pytest.approx(expected()["segm/AP"], abs=1e-6)


def test_the_whole_evaluation_can_be_read_from_any_logged_number():
    run = trainer()

    run.eval()

    whole = run.state.eval_metrics["eval"]["bbox/AP"].whole
    assert whole is run.state.eval_metrics["eval"]["segm/ARl"].whole
    assert whole.evaluation().images == 14


def test_checkpoints_that_save_metrics_hold_no_images_and_can_be_resumed(tmp_path):
    first = trainer(save_folder=str(tmp_path), save_metrics=True, run_name="run")
    first.fit(duration="1ep")
    first.close()
    saved = torch.load(tmp_path / "ep1-ba4-rank0.pt", weights_only=False)["state"]

    second = trainer(save_metrics=True, load_path=str(tmp_path / "ep1-ba4-rank0.pt"))
    second.fit(duration="1ep")

    assert not saved["eval_metrics"]["eval"]["segm/AP"]["state_dict"]
    assert not [name for name in saved["model"] if "metric" in name]
    assert second.state.eval_metric_values["segm/AP"] == pytest.approx(expected()["segm/AP"], abs=1e-12)
