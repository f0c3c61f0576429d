"""What ``describe_file`` says of files and folders."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_scenes import random_scene
from PIL import Image
from small_runs import small_run

from composer_copypaste import MaskRCNN, describe_file, evaluate_predictions, export_onnx, export_torchscript
from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.streaming.write import write_shards
from composer_copypaste.errors import CheckpointError, DataError, OutputError, UserError
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.runs.augment.run import augment_data_set
from composer_copypaste.runs.info.description import Description, InfoTable
from composer_copypaste.runs.predict.run import predict_files
from composer_copypaste.settings import AugmentSettings, MaskRCNNSettings, OfflineCopyPasteSettings


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def square(number, side, category=3, image=1, **changes):
    corners = [0, 0, side, 0, side, side, 0, side]
    box = {"id": number, "image_id": image, "category_id": category, "bbox": [0, 0, side, side], "area": side * side}
    return box | {"iscrowd": 0, "segmentation": [corners]} | changes


@pytest.fixture
def data_set(tmp_path):
    """Two images, one of them empty; a small, a medium and a large nut, a bolt, and a crowd of nuts."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 200, "height": 150} for n in (1, 2)]
    objects = [square(1, 10), square(2, 40), square(3, 100), square(4, 12, category=7), square(5, 90, iscrowd=1)]
    categories = [{"id": 3, "name": "nut"}, {"id": 7, "name": "bolt"}, {"id": 9, "name": "gear"}]
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", (200, 150)).save(tmp_path / "images" / image["file_name"])
    return write(tmp_path / "val.json", {"images": images, "annotations": objects, "categories": categories})


def table(described, title):
    return {next(iter(row.values())): row for row in described.to_json()["tables"][title]}


def test_ids_have_no_separators_fractions_of_a_column_equally_many_digits_and_long_facts_are_whole():
    shown = InfoTable("scores", ["name", "id", "AP"], [["nut", 1007, 37.0], ["bolt", 12, 36.25], ["gear", 9, None]])
    assert [line.split() for line in str(shown).splitlines()[3:]] == [
        ["nut", "1007", "37.00"],
        ["bolt", "12", "36.25"],
        ["gear", "9", "-"],
    ]
    words = "an output and its shape " * 20
    described = Description(Path("model.onnx"), "an ONNX file", {"outputs": words})
    assert " ".join(str(described).split()).count("an output and its shape") == 20
    assert max(map(len, str(described).splitlines())) < 150


def test_a_data_set_is_counted_by_category_and_size_without_its_crowds(data_set):
    found = describe_file(data_set)
    assert found.kind == "a COCO data set"
    facts = found.facts
    assert (facts["images"], facts["images without objects"], facts["objects"], facts["crowds"]) == (2, 1, 4, 1)
    assert facts["categories without objects"] == 1
    nut = table(found, "categories")["nut"]
    assert [nut[name] for name in ("id", "objects", "images", "crowds", "small", "medium", "large")] == [
        3,
        3,
        1,
        1,
        1,
        1,
        1,
    ]
    assert table(found, "categories")["gear"]["objects"] == 0
    assert found.problems == []


def test_images_are_looked_at_where_their_folder_is_given(data_set):
    assert describe_file(data_set, images=data_set.parent / "images").problems == []
    (data_set.parent / "images" / "2.png").unlink()
    (problem,) = describe_file(data_set, images=data_set.parent / "images").problems
    assert "2.png (image 2)" in problem


def test_images_of_a_test_set_are_described(data_set):
    content = json.loads(data_set.read_text())
    del content["annotations"]
    found = describe_file(write(data_set, content))
    assert found.kind.startswith("images of a COCO file without annotations")
    assert found.facts["images"] == 2


def test_results_are_described_without_their_annotations(tmp_path):
    results = [{"image_id": 4, "category_id": 3, "score": score, "bbox": [0, 0, 9, 9]} for score in (0.2, 0.8, 1.5)]
    found = describe_file(write(tmp_path / "results.json", [*results, {**results[0], "score": "high"}]))
    assert found.kind == "COCO results"
    assert (found.facts["results"], found.facts["highest score"], found.facts["masks"]) == (3, 1.5, False)
    assert found.problems == ['result number 4: score is "high" (text), expected a number']
    assert found.warnings == ["scores are not between 0 and 1"]


def test_a_state_dict_is_described_with_weights_that_are_not_finite(tmp_path):
    state = build_mask_rcnn(4, MaskRCNNSettings(backbone="small")).state_dict()
    state["backbone.fpn.inner_blocks.0.0.weight"][0] = torch.nan
    torch.save(state, tmp_path / "my.pt")
    found = describe_file(tmp_path / "my.pt")
    assert found.kind == "a state dict"
    assert found.facts["classes, background included"] == 4
    assert found.facts["numbers"] == sum(tensor.numel() for tensor in state.values())
    assert "backbone.fpn.inner_blocks.0.0.weight" in found.problems[0]
    assert set(table(found, "parts")) >= {"backbone.body", "roi_heads.mask_head"}


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "my.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match=r"my\.pt: expected weights, got a file that is cut off"):
        describe_file(tmp_path / "my.pt")
    (tmp_path / "my.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(UserError, match=r"my\.onnx: onnxruntime cannot run it|ONNX files need onnxruntime"):
        describe_file(tmp_path / "my.onnx")
    with pytest.raises(DataError, match="there is no such file"):
        describe_file(tmp_path / "none.json")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: expected a COCO file, weights, .* got an image \(PNG\)"):
        describe_file(tmp_path / "a.png")


def test_a_run_is_described_with_its_evaluations_and_losses_that_are_not_finite(tmp_path):
    run = tmp_path / "run"
    write(run / "categories.json", [{"id": 3, "name": "nut"}])
    (run / "recipe.yaml").write_text("base: quickstart\nname: mine\n")
    scores = {"metrics/eval/segm/AP": 0.25, "metrics/eval/bbox/AP": None}
    rows = [{"batch": 1, "loss/train/total": 2.0}, {"batch": 2, "loss/train/total": None}, {"batch": 2, **scores}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = describe_file(run)
    assert found.kind == "a training run"
    assert (found.facts["name"], found.facts["complete"], found.facts["trained batches"]) == ("mine", False, 2)
    assert table(found, "evaluations, in %")["2"]["masks AP"] == 25
    assert found.problems[0] == "the loss was not finite in 1 batch, first in 2"
    assert "there is no checkpoint" in found.problems[1]


def test_an_ablation_is_described_with_its_results(tmp_path):
    (tmp_path / "ablation.yaml").write_text("runs: {plain: {}, pasted: {}}\nseeds: [1, 2]\nfractions: [0.5, 1]\n")
    assert describe_file(tmp_path).facts["trainings"] == 8
    run = {"name": "plain", "fraction": 0.5, "seeds": [1, 2], "images": 8, "scores": {"segm": {"AP": {"mean": 0.3}}}}
    report = {"runs": [run], "failed": [], "missing": ["pasted at 50 %, seed 1"], "baseline": "plain"}
    write(tmp_path / "results.json", report)
    found = describe_file(tmp_path)
    assert table(found, "results, mean of the seeds")["plain"]["masks AP, %"] == 30
    assert found.tables[0].headers[-1] == "masks AP, %"  # no boxes are scored
    assert found.warnings == ["not finished: pasted at 50 %, seed 1"]


def made_from(found):
    """What the facts say that a folder is made from."""
    start = "made from: "
    return {name.removeprefix(start): value for name, value in found.facts.items() if name.startswith(start)}


def test_an_offline_data_set_and_shards_are_described_by_their_annotations(data_set, tmp_path):
    changed = AugmentSettings(fraction=0.5, copy_paste=OfflineCopyPasteSettings(rotation=30))
    augment_data_set(tmp_path / "twice", data_set.parent / "images", data_set, settings=changed)
    found = describe_file(tmp_path / "twice")
    assert (found.kind, found.facts["images"], found.problems) == ("an offline data set", 3, [])
    digest = hashlib.sha256(data_set.read_bytes()).hexdigest()
    expected = {"annotations": digest, "fraction": 0.5, "copy_paste.rotation": 30}
    assert made_from(found) == expected  # nothing that is empty, a default, or for the program alone
    line = next(line for line in str(found).splitlines() if line.startswith("made from: annotations"))
    assert line.endswith(f"  a file whose SHA-256 begins with {digest[:12]}")
    write_shards(tmp_path / "shards", data_set.parent / "images", data_set)
    shards = describe_file(tmp_path / "shards")
    assert (shards.kind, made_from(shards).keys()) == ("shards of a data set", {"annotations", "shard size"})


def test_unfinished_folders_are_described_by_what_they_are_made_from(tmp_path):
    working = tmp_path / "twice" / ".unfinished"
    write(working / "source.json", {"per_image": 2, "seed": 3, "pool": None, "masks": "polygons"})
    found = describe_file(tmp_path / "twice")
    assert (found.kind, found.facts) == (
        "an offline data set, not complete",
        {"made from: per_image": 2, "made from: seed": 3},
    )
    assert found.warnings == ["not complete: the command that began it goes on"]


# ---- what a model finds, and how it is scored


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("info") / "run", found=3)


def test_predictions_are_described_whether_they_are_complete_or_not(run, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "b.png").write_bytes(b"damaged")
    predict_files(run, tmp_path / "photos", tmp_path / "found")
    found = describe_file(tmp_path / "found")
    assert (found.kind, found.facts["images"], found.facts["images done"]) == ("predictions, not complete", 2, 2)
    assert found.facts["results"] == 3
    assert found.problems == ["could not be read: b.png: the image cannot be decoded: not an image in a known format"]
    (tmp_path / "photos" / "b.png").unlink()
    predict_files(run, tmp_path / "photos", tmp_path / "complete")
    found = describe_file(tmp_path / "complete")
    assert (found.kind, found.facts["images"], found.facts["results"]) == ("predictions", 1, 3)
    assert made_from(found).keys() == {"weights", "categories", "batch_size"}
    assert table(found, "categories").keys() <= {"fig", "nut"}
    assert sum(row["results"] for row in table(found, "categories").values()) == 3


def test_scores_and_matches_of_an_evaluation_are_described(tmp_path):
    scene = random_scene(1)
    write(tmp_path / "results.json", [
        {**each, "segmentation": {**each["segmentation"], "counts": each["segmentation"]["counts"].decode()}}
        for each in scene.results
    ])  # fmt: skip
    write(tmp_path / "val.json", scene.dataset)
    report = evaluate_predictions(
        tmp_path / "results.json", tmp_path / "val.json", output=tmp_path / "scores", crowds="ignore"
    )
    for name in ("evaluation.json", "matches.npz", ""):
        found = describe_file(tmp_path / "scores" / name)
        assert found.facts["images"] == report["images"] == len(scene.dataset["images"])
        scores = table(found, "scores, in %")
        assert scores["masks"]["AP50"] == pytest.approx(100 * report["segm"]["AP50"], abs=0.051)
        assert scores["boxes"]["APs"] == pytest.approx(100 * report["bbox"]["APs"], abs=0.051)
        for category, numbers in report["segm"]["per_category"].items():
            row = table(found, "categories")[category]
            assert row["objects"] == numbers["instances"]
            assert row["masks AP, %"] == pytest.approx(100 * numbers["AP"], abs=0.051)
    describe_file(tmp_path / "scores" / "matches.npz").save_png(tmp_path / "scores.png")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz: expected the matches that an evaluation writes"):
        describe_file(tmp_path / "other.npz")


def test_exported_models_are_described_by_what_they_say_of_themselves(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = MaskRCNN(num_classes=3, backbone="small", box_score_thresh=0.0, detections_per_image=5)
    given = {"categories": [Category(5, "nut"), Category(3, "fig")], "images": [torch.zeros(3, 60, 90).byte()]}
    for name, export in (("m.onnx", export_onnx), ("m.torchscript", export_torchscript)):
        export(model, tmp_path / name, **given, masks="pasted", max_unmatched=1.0)
        found = describe_file(tmp_path / name)
        assert found.kind == f"a Mask R-CNN as {'an ONNX' if name == 'm.onnx' else 'a TorchScript'} file"
        assert (found.facts["masks"], len(found.warnings)) == ("0 and 1, at the image's size", 0)
        assert {name: row["id"] for name, row in table(found, "categories").items()} == {"nut": 5, "fig": 3}
    ends = [
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, 640, 640])]
        for name in ("x", "output0")
    ]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["output0"])], "yolo", *ends)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "yolo.onnx")
    found = describe_file(tmp_path / "yolo.onnx")
    assert (found.kind, found.facts["inputs"]) == ("an ONNX file", "x tensor(float) (1, 3, 640, 640)")
    assert found.warnings == ["not written by copypaste export, which copypaste predict needs: it cannot be run here"]


def test_another_folder_is_refused_with_what_is_in_it(tmp_path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(UserError, match=r"expected the folder of a run.*found photo\.jpg"):
        describe_file(tmp_path)


def test_the_plot_is_a_png_and_files_without_one_say_so(data_set, tmp_path):
    found = describe_file(data_set)
    found.save_png(tmp_path / "seen" / "val.png")
    assert Image.open(tmp_path / "seen" / "val.png").width > 500
    with pytest.raises(OutputError, match="expected the name of a PNG file"):
        found.save_png(tmp_path / "val.pdf")
    content = json.loads(data_set.read_text())
    del content["annotations"]
    with pytest.raises(OutputError, match="has nothing to draw"):
        describe_file(write(data_set, content)).save_png(tmp_path / "nothing.png")
    assert not (tmp_path / "nothing.png").exists()
