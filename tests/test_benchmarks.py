"""The benchmarks run; what they measure is what they say."""

import importlib.util
import re
import sys
import time
from pathlib import Path

import pytest
import torch

from composer_copypaste import evaluate_predictions

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Loads a benchmark by its path, as Python does that runs it; threads are as before afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    threads, modules = torch.get_num_threads(), set(sys.modules)

    def module_of(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(module, "keep_freed_memory", lambda: None, raising=False)  # it is for the whole process
        return module

    yield module_of
    torch.set_num_threads(threads)
    for name in {"batches", "measure", "peers"} - modules:
        sys.modules.pop(name, None)


def test_without_a_gpu_what_needs_one_says_so(load, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match=r"^torch finds no GPU$"):
        load("gpu").main([])


def test_what_needs_a_gpu_is_summed_up_step_by_step(load, monkeypatch, capsys):
    gpu = load("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(gpu, "STEPS", {"good": ["-c", ""], "bad": ["-c", "exit(3)"]})
    with pytest.raises(SystemExit, match=r"^True$"):
        gpu.main([])
    *_, good, bad = capsys.readouterr().out.splitlines()
    assert good.split()[:2] == ["good", "done"]
    assert bad.split()[:5] == ["bad", "failed", "with", "code", "3"]


def test_a_step_on_a_gpu_ends_when_the_time_is_over(load):
    now = time.monotonic()
    assert load("gpu").run("slow", ["-c", "import time; time.sleep(300)"], end=now) == "not done: out of time"


def test_each_step_on_a_gpu_is_a_file_or_folder_that_there_is(load):
    gpu = load("gpu")
    named = [word for command in gpu.STEPS.values() for word in command if "/" in word]
    assert len(named) == len(gpu.STEPS)
    assert all((gpu.ROOT / word).exists() for word in named)


def rows(printed, *names):
    """The first number of each line that begins with one of the names."""
    return [
        float(line[len(name) :].split()[0]) for name in names for line in printed.splitlines() if line.find(name) == 0
    ]


def test_peers_prints_a_row_for_ours_for_the_copy_and_for_torchvision(load, capsys):
    load("peers").main(["--rounds", "1", "--case", "2x64x3"])
    printed = capsys.readouterr().out
    assert len(rows(printed, "plain copy", "ours, no jitter", "ours, paper's jitter", "torchvision's algorithm")) == 4


def test_peers_says_what_is_not_installed(load, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.augmentation", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "mayaku", None)
    load("peers").main(["--rounds", "1", "--case", "2x64x3"])
    said = "kornia, ultralytics, albumentationsx, mayaku: not installed (pip install kornia ultralytics albumentationsx"
    assert said in capsys.readouterr().out


def test_step_prints_a_share_with_and_without_jitter(load, capsys):
    load("step").main(["--rounds", "1", "--size", "64", "--batch-size", "2", "--instances", "2", "--backbone", "small"])
    assert capsys.readouterr().out.count("% of both") == 2


def test_colors_prints_how_many_times_as_long_each_setting_takes(load, capsys):
    load("colors").main(["--case", "2x32x2", "--rounds", "1"])
    rows = capsys.readouterr().out.splitlines()
    (plain,) = (row for row in rows if row.startswith("painted over"))
    assert plain.split()[-2:] == ["1.0", "0.00"]
    assert [row.partition("=")[0] for row in rows if "poisson" in row] == ["blend_mode"]


def test_offline_prints_a_row_for_the_loop_and_for_each_of_ours(load, capsys):
    load("offline").main(["--rounds", "1", "--case", "3x64x3"])
    printed = capsys.readouterr().out
    assert len(rows(printed, "the loop", "ours, no jitter", "ours, the paper's", "ours, rotated")) == 4


def test_loader_prints_a_rate_for_each_form_and_how_much_is_handed_over(load, capsys):
    load("loader").main(["--rounds", "1", "--size", "64", "--count", "4"])
    printed = capsys.readouterr().out
    assert len(rows(printed, "ours, cut-outs", "ours, planes", "torchvision")) == 3
    share = float(printed.splitlines()[-1].split()[-3])
    assert 0 < share < 1


def test_the_other_loader_gives_images_and_masks_of_one_size(load, tmp_path):
    loader = load("loader")
    folder = loader.draw_shapes(loader.ShapesSettings(folder=str(tmp_path / "shapes"), train=3, val=1, size=64))
    file = loader._first_images(folder / "annotations" / "instances_train.json", 3, tmp_path)
    for image, target in loader._torchvision(folder / "train", file, 48).dataset:
        assert image.shape == (3, 48, 48)
        assert image.dtype == torch.uint8
        assert target["masks"].shape == (len(target["labels"]), 48, 48)


def test_uncompressed_run_lengths_are_the_same_mask(load):
    loader = load("loader")
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]], dtype=torch.uint8).numpy()
    rle = loader.coco_mask.encode(mask.copy(order="F"))
    assert loader._uncompressed({"segmentation": rle})["segmentation"]["counts"] == [0, 1, 1, 2, 1, 1]


def test_drawn_boxes_enclose_their_masks_exactly(load):
    batches = load("batches")
    for target in batches.draw_batch(batches.Case(2, 64, 6), torch.device("cpu")).targets:
        for mask, (x1, y1, x2, y2) in zip(target["masks"].bool(), target["boxes"].int().tolist(), strict=True):
            assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0
            assert torch.stack([mask[y1].any(), mask[y2 - 1].any(), mask[:, x1].any(), mask[:, x2 - 1].any()]).all()


def test_the_rewritten_algorithm_pastes_and_hides(load):
    peers = load("peers")
    own, other = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    own[:, :, :3] = 1
    other[:, :, 2:] = 1
    targets = [
        {
            "boxes": torch.tensor([box], dtype=torch.float32),
            "labels": torch.tensor([label]),
            "masks": masks,
            "area": masks.sum((1, 2)).float(),
            "iscrowd": torch.tensor([0]),
        }
        for masks, box, label in ((own, [0, 0, 3, 4], 1), (other, [2, 0, 4, 4], 2))
    ]
    images, (first, _) = peers.torchvision_copy_paste(
        torch.tensor([10, 20]).view(2, 1, 1, 1).expand(2, 3, 4, 4), targets
    )
    assert images[0][0, 0].tolist() == [10, 10, 20, 20]
    assert first["masks"][:, 0].tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert first["labels"].tolist() == [1, 2]
    assert first["area"].tolist() == [8, 8]
    assert first["boxes"].tolist() == [[0, 0, 1, 3], [2, 0, 4, 4]]  # survivors' boxes end at their last pixel, as there


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")
def test_peak_bytes_counts_what_is_freed_again(load):
    measure = load("measure")

    def way():
        torch.ones(32 << 20, dtype=torch.uint8)
        return torch.ones(8 << 20, dtype=torch.uint8)

    assert 31 < measure.peak_bytes(way) / 2**20 < 42  # malloc may keep what is freed, so that the second adds to it


def test_scoring_is_timed_in_two_checkouts_that_give_the_same_numbers(load, capsys):
    here = str(FOLDER.parent)
    load("scoring").main(["--images", "3", "--detections", "12", "--rounds", "1", "--against", here])
    *times, compared = capsys.readouterr().out.splitlines()
    assert all(re.fullmatch(rf"{re.escape(here)}: \d+\.\d\d s", line) for line in times)
    assert len(times) == 2
    assert re.fullmatch(r"ratio \d+\.\d\d, largest difference of a number 0\.0e\+00", compared)


def test_curves_prints_a_table_for_each_axis_and_draws_both(load, capsys, tmp_path):
    curves = load("curves")
    curves.main(["--rounds", "1", "--objects", "1", "2", "--sides", "32", "64", "--output", str(tmp_path / "cost.png")])
    printed = capsys.readouterr().out
    assert len(re.findall(r"^\| plain copy .*\(1\).*\(1\) +\|$", printed, re.MULTILINE)) == 2
    assert len(re.findall(r"^\| ours, cut-outs ", printed, re.MULTILINE)) == 2
    assert (tmp_path / "cost.png").read_bytes()[:4] == b"\x89PNG"


def test_bootstrap_prints_its_time_beside_that_of_the_engine(load, capsys):
    load("bootstrap").main(["--images", "4", "--detections", "5", "--resamples", "3"])
    seconds = r"\d+\.\d+ s"
    assert re.fullmatch(
        rf"4 images, 5 categories, 5 detections in each image: scored in {seconds}, matches collected in {seconds}, "
        rf"0.00 MB\n3 resamples from the matches {seconds}; by running the engine again \d+ s\n",
        capsys.readouterr().out,
    )


def evaluate_here(place):
    """Without a process, which would import everything again; gives no times."""
    evaluate_predictions(place / "results.json", place / "val.json", output=place / "scores")
    return 1.0, 1.0, 1.0


def test_the_error_analysis_is_measured_on_files_that_are_drawn(load, capsys, monkeypatch):
    analysis = load("error_analysis")
    names = [*analysis.TIDE_NAMES.values(), "FalsePos", "FalseNeg"]
    monkeypatch.setattr(analysis, "tidecv_costs", lambda place, kind: dict.fromkeys(names, 0))
    monkeypatch.setattr(analysis, "evaluate", evaluate_here)
    analysis.main(["--images", "3", "--detections", "5", "--categories", "2", "--tidecv"])
    printed = capsys.readouterr().out
    first = (
        r"3 images, 5 detections in each, 2 categories: \d+ s \(\d+ s of a core\), peak \d\.\d\d GB, page \d\.\d MB\n"
    )
    assert re.match(first, printed)
    assert len(rows(printed, "bbox: Cls", "segm: Cls")) == 2


@pytest.mark.parametrize("case", ["class ids", "bank, log"])
def test_large_prints_the_time_of_a_case_and_its_memory_beside_that_of_its_result(load, capsys, monkeypatch, case):
    large = load("large")
    monkeypatch.setattr(large, "BANK_SIZE", 32)
    large.main(["--case", case])
    assert re.fullmatch(rf"{case} +[\d.]+ ms +\d+ MB, result \d+ MB\n", capsys.readouterr().out)
