"""What a run reports: rows and bar, each in a real Trainer."""

import json
import math
import warnings

import pytest
import torch
from composer import Callback, Logger, State, Trainer
from composer.models import ComposerModel
from log_files import LogFile, Terminal
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from composer_copypaste.integrations.composer.callbacks import build_monitors
from composer_copypaste.integrations.composer.loggers import MACHINE_KEYS, JsonLinesLogger, ProgressBar


class TinyModel(ComposerModel):
    """Learns one number; its loss has two parts, as a detector's has several."""

    def __init__(self, losses=(1.0, 0.5)):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.losses = losses
        self.metric = MeanMetric()

    def forward(self, batch):
        return self.weight

    def loss(self, outputs, batch, *args):
        first, second = ((outputs - 1) ** 2 + part for part in self.losses)
        return {"total": first + second, "loss_mask": first, "loss_classifier": second}

    def eval_forward(self, batch, outputs=None):
        return self.weight

    def get_metrics(self, is_train):
        return {} if is_train else {"segm/AP": self.metric, "bbox/AP": self.metric, "bbox/APl": self.metric}

    def update_metric(self, batch, outputs, metric):
        metric.update(outputs.detach())


def trainer(loggers, duration="6ba", *, model=None, monitors=(), batches=4, interval="2ba", **options):
    """A run of batches of four numbers, evaluated on one."""
    model = model or TinyModel()
    loader = DataLoader(torch.zeros(4 * batches), batch_size=4)
    return Trainer(
        model=model,
        train_dataloader=loader,
        eval_dataloader=DataLoader(torch.zeros(4), batch_size=4),
        eval_interval=interval,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.125),
        max_duration=duration,
        loggers=loggers,
        callbacks=list(monitors),
        progress_bar=False,
        device="cpu",
        **options,
    )


def run(loggers, duration="6ba", **options):
    with_trainer = trainer(loggers, duration, **options)
    with_trainer.fit()
    with_trainer.close()


def rows(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def repeatable(path):
    """The rows without what depends on the machine and the hour."""
    return [{name: value for name, value in row.items() if not name.startswith(MACHINE_KEYS)} for row in rows(path)]


# ---- rows


def test_each_batch_has_one_row_with_everything_logged_for_it(tmp_path):
    run(JsonLinesLogger(tmp_path / "metrics.jsonl"), monitors=build_monitors(on_gpu=False), interval="100ba")
    found = rows(tmp_path / "metrics.jsonl")
    assert [row["batch"] for row in found if "loss/train/total" in row] == [1, 2, 3, 4, 5, 6]
    assert {"epoch", "time", "loss/train/loss_mask", "loss/train/loss_classifier", "memory/process_peak"} <= {*found[0]}
    assert found[0]["lr-SGD/group0"] == 0.125
    assert (
        found[0]["loss/train/total"] == found[0]["loss/train/loss_mask"] + found[0]["loss/train/loss_classifier"] == 3.5
    )


def test_a_row_says_when_once(tmp_path):
    run(JsonLinesLogger(tmp_path / "metrics.jsonl"), "1ba", interval="100ba")
    losses = {f"loss/train/{part}" for part in ("total", "loss_mask", "loss_classifier")}
    assert {*rows(tmp_path / "metrics.jsonl")[0]} - losses <= {
        "batch",
        "epoch",
        "time",
        "trainer/device_train_microbatch_size",
    }


def test_an_evaluation_has_one_row_with_the_batch_it_came_after(tmp_path):
    run(JsonLinesLogger(tmp_path / "metrics.jsonl"))
    found = [row for row in rows(tmp_path / "metrics.jsonl") if "metrics/eval/segm/AP" in row]
    assert [row["batch"] for row in found] == [2, 4, 6]
    assert all("loss/train/total" not in row for row in found)


def test_what_is_not_finite_becomes_null(tmp_path):
    run(JsonLinesLogger(tmp_path / "metrics.jsonl"), "1ba", model=TinyModel(losses=(math.nan, math.inf)))
    row = rows(tmp_path / "metrics.jsonl")[0]
    assert (row["loss/train/loss_mask"], row["loss/train/loss_classifier"]) == (None, None)


def test_a_row_is_on_disk_when_its_batch_ends(tmp_path):
    class Reader(Callback):
        seen: list[int] = []  # noqa: RUF012 - one for the test

        def batch_start(self, state: State, logger: Logger) -> None:
            self.seen.append(len(rows(tmp_path / "metrics.jsonl")))

    run(JsonLinesLogger(tmp_path / "metrics.jsonl"), "3ba", monitors=[Reader()], interval="100ba")
    assert Reader.seen == [0, 1, 2]


def test_where_the_file_is_removed_rows_begin_anew_and_where_a_folder_takes_its_place_it_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"

    class Remover(Callback):
        def batch_start(self, state: State, logger: Logger) -> None:
            if state.timestamp.batch == 1:
                path.rename(tmp_path / "elsewhere")
            if state.timestamp.batch == 4:
                path.unlink()
                path.mkdir()

    with pytest.raises(IsADirectoryError, match=str(path)):
        run(JsonLinesLogger(path), "6ba", monitors=[Remover()], interval="100ba")
    assert [row["batch"] for row in rows(tmp_path / "elsewhere")] == [1]
    path.rmdir()
    run(JsonLinesLogger(path), "3ba", monitors=[Remover()], interval="100ba")
    assert [row["batch"] for row in rows(path) if "loss/train/total" in row] == [2, 3]


def test_only_scalars_are_kept(tmp_path):
    logger = JsonLinesLogger(tmp_path / "metrics.jsonl")

    class Talker(Callback):
        def batch_end(self, state: State, logger: Logger) -> None:
            logger.log_metrics({"tensor": torch.tensor(2.0), "many": torch.ones(3), "text": "x", "table": {"a": 1.0}})

    run(logger, "1ba", monitors=[Talker()])
    row = rows(tmp_path / "metrics.jsonl")[0]
    assert row["tensor"] == 2.0
    assert not {"many", "text", "table"} & {*row}


@pytest.mark.parametrize("interval", ["2ba", "1ep"])
def test_a_run_killed_and_resumed_has_the_rows_of_one_never_killed(tmp_path, interval):
    options = {"save_interval": "4ba", "interval": interval}
    run(JsonLinesLogger(tmp_path / "whole.jsonl"), "10ba", save_folder=str(tmp_path / "whole"), **options)

    class Killed(Exception):
        pass

    class Killer(Callback):
        def batch_start(self, state: State, logger: Logger) -> None:
            if state.timestamp.batch == 7:
                raise Killed

    saved = str(tmp_path / "cut")
    killed = trainer(JsonLinesLogger(tmp_path / "cut.jsonl"), "10ba", monitors=[Killer()], save_folder=saved, **options)
    with pytest.raises(Killed):
        killed.fit()
    killed.close()
    with (tmp_path / "cut.jsonl").open("a") as file:
        file.write('{"batch": 8, "loss/tr')  # as a kill in the middle of writing leaves it
    options["save_overwrite"] = True
    run(JsonLinesLogger(tmp_path / "cut.jsonl"), "10ba", load_path=f"{saved}/latest-rank0.pt", **options)

    assert repeatable(tmp_path / "cut.jsonl") == repeatable(tmp_path / "whole.jsonl")
    assert [row["batch"] for row in rows(tmp_path / "whole.jsonl") if "loss/train/total" in row] == [*range(1, 11)]


def test_a_new_run_does_not_append_to_an_old_file(tmp_path):
    run(JsonLinesLogger(tmp_path / "metrics.jsonl"), "4ba", interval="100ba")
    run(JsonLinesLogger(tmp_path / "metrics.jsonl"), "2ba", interval="100ba")
    assert [row["batch"] for row in rows(tmp_path / "metrics.jsonl") if "loss/train/total" in row] == [1, 2]


def test_the_monitors_of_a_cpu_run_do_not_warn(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(JsonLinesLogger(tmp_path / "metrics.jsonl"), "12ba", monitors=build_monitors(on_gpu=False))
    assert not [warning for warning in caught if "monitor" in str(warning.message).lower()]
    assert "throughput/samples_per_sec" in rows(tmp_path / "metrics.jsonl")[-3]


def test_the_memory_of_the_process_is_counted_in_gigabytes(tmp_path):
    run(JsonLinesLogger(tmp_path / "metrics.jsonl"), "1ba", monitors=build_monitors(on_gpu=False))
    assert 0.05 < rows(tmp_path / "metrics.jsonl")[0]["memory/process_peak"] < 100


# ---- progress


def test_a_log_file_gets_a_line_at_each_tenth_of_the_run():
    stream = LogFile()
    run(ProgressBar(stream), "10ep", batches=4, interval="100ep")
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("train")]
    assert [line.split()[1] for line in lines] == [f"{number}/40" for number in range(4, 41, 4)]
    assert lines[-1].startswith("train 40/40 batches, 00:00 left, loss 1.500, ")
    assert lines[-1].endswith(" passed")


def test_a_log_file_tells_what_each_evaluation_found_and_repeats_the_latest():
    stream = LogFile()
    run(ProgressBar(stream), "4ba")
    lines = stream.getvalue().splitlines()
    assert lines[2] == "evaluation after 2 batches: mask AP 0.750, box AP 0.750"
    assert ", mask AP 0.750, " in lines[3]
    assert "box" not in lines[3]


def test_where_no_masks_are_scored_box_ap_is_repeated():
    class OfBoxes(ProgressBar):
        def log_metrics(self, metrics, step=None):
            super().log_metrics({name: value for name, value in metrics.items() if "segm" not in name}, step)

    stream = LogFile()
    run(OfBoxes(stream), "4ba")
    lines = stream.getvalue().splitlines()
    assert lines[2] == "evaluation after 2 batches: box AP 0.750"
    assert ", box AP 0.750, " in lines[3]


def test_a_terminal_shows_time_left_loss_and_score_in_one_bar(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    run(ProgressBar(stream), "2ep", interval="1ep")
    last = stream.getvalue().split("\r")[-1]
    assert "train 100%|" in last
    assert "8/8 batches, 00:00 left, loss 1.5" in last
    assert "mask AP 0." in last


def test_a_resumed_run_starts_where_it_stopped(tmp_path):
    saved = str(tmp_path / "saved")
    run([], "5ba", save_folder=saved, save_interval="5ba")
    stream = LogFile()
    run(ProgressBar(stream), "10ba", load_path=f"{saved}/latest-rank0.pt", interval="100ba")
    assert stream.getvalue().startswith("train 6/10 batches")


def test_a_run_measured_in_samples_shows_no_total():
    stream = LogFile()
    run(ProgressBar(stream), "400sp", interval="100ep")
    line = stream.getvalue().splitlines()[0]
    assert line.startswith("train 100/? batches, loss 1.5")
    assert line.endswith("passed")


def test_an_evaluation_on_its_own_shows_its_progress():
    stream = LogFile()
    alone = Trainer(
        model=TinyModel(),
        eval_dataloader=DataLoader(torch.zeros(20), batch_size=1),
        loggers=ProgressBar(stream),
        progress_bar=False,
        device="cpu",
    )
    alone.eval()
    alone.close()
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("evaluate 2/20 batches")
    assert lines[-1] == "evaluation: mask AP 0.000, box AP 0.000"
