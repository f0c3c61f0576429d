"""What is stored of an evaluation's matches."""

import copy
import os

import numpy as np
import pytest
import torch
from metric_scenes import (
    CATEGORY_IDS,
    as_prediction,
    numbers,
    one_object,
    one_object_dataset,
    pycocotools_evaluation,
    random_scene,
    scored,
)

from composer_copypaste.errors import DataError
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.matches import EvaluationMatches, unpacked_flags

KINDS = ("bbox", "segm")
COLUMNS = ("detection_starts", "scores", "images", "matched", "ignored", "truth_starts", "truth_images", "truth_counts")


def matches_of(scene):
    return scored(scene, scene.dataset).matches()


def assert_same(first, second):
    assert first.image_ids.tolist() == second.image_ids.tolist()
    names = ("category_ids", "category_names", "max_dets")
    assert [getattr(first, name) for name in names] == [getattr(second, name) for name in names]
    assert list(first.tables) == list(second.tables)
    for kind, table in first.tables.items():
        for name in COLUMNS:
            found, expected = getattr(table, name), getattr(second.tables[kind], name)
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected), (kind, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_detection_has_the_flags_that_pycocotools_gives_it(kind, seed):
    scene = random_scene(seed)
    table = matches_of(scene).tables[kind]
    ids = [image["id"] for image in scene.dataset["images"]]
    evaluation = pycocotools_evaluation(scene, kind)

    for number in range(len(CATEGORY_IDS)):
        entries = [e for e in evaluation.evalImgs if e is not None and e["category_id"] == CATEGORY_IDS[number]]
        for area, limits in enumerate(evaluation.params.areaRng):
            found = unpacked_flags(table.matched)[area], unpacked_flags(table.ignored)[area]
            for entry in (e for e in entries if e["aRng"] == limits):
                rows = np.arange(len(table.scores))[table.detections(number)]
                rows = rows[table.images[rows] == ids.index(entry["image_id"])]
                assert table.scores[rows].tolist() == entry["dtScores"]
                assert np.array_equal(found[0][:, rows], entry["dtMatches"] != 0)
                assert np.array_equal(found[1][:, rows], entry["dtIgnore"])


def test_objects_that_count_are_counted_by_image_category_and_size():
    scene = random_scene(0)
    table, ids = matches_of(scene).tables["segm"], [image["id"] for image in scene.dataset["images"]]
    areas = [(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)]

    found = {
        (ids[table.truth_images[row]], CATEGORY_IDS[k]): table.truth_counts[row].tolist()
        for k in range(3)
        for row in range(table.truths(k).start, table.truths(k).stop)
    }

    expected = {}
    for annotation in (a for a in scene.dataset["annotations"] if not a["iscrowd"]):
        counts = expected.setdefault((annotation["image_id"], annotation["category_id"]), [0] * 4)
        for area, (low, high) in enumerate(areas):
            counts[area] += low <= annotation["area"] <= high
    assert found == expected


def test_what_is_saved_is_loaded(tmp_path):
    matches = matches_of(random_scene(0))

    matches.save(tmp_path / "matches.npz")

    assert_same(EvaluationMatches.load(tmp_path / "matches.npz"), matches)
    assert [path.name for path in tmp_path.iterdir()] == ["matches.npz"]


def test_a_file_holds_the_columns_and_what_names_them_alone(tmp_path):
    matches_of(random_scene(0)).save(tmp_path / "matches.npz")

    header = ["format", "image_ids", "category_ids", "category_names", "max_dets", "iou_types"]
    with np.load(tmp_path / "matches.npz") as arrays:
        assert arrays.files == [*header, *(f"{kind}_{column}" for kind in KINDS for column in COLUMNS)]


def test_the_same_matches_give_the_same_bytes(tmp_path):
    for name in "ab":
        matches_of(random_scene(0)).save(tmp_path / name)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_names_are_those_of_the_annotations():
    matches = matches_of(random_scene(0))

    assert matches.category_names == ("thing 3", "thing 7", "thing 90")
    assert matches.image_ids.tolist() == [10 + 3 * index for index in range(14)]


def test_without_detections_or_objects_the_tables_are_empty(tmp_path):
    metric = CocoMeanAveragePrecision({**one_object_dataset(), "annotations": []})
    metric.update([as_prediction([])], [{"image_id": torch.tensor(1)}])

    metric.matches().save(tmp_path / "matches.npz")

    table = EvaluationMatches.load(tmp_path / "matches.npz").tables["bbox"]
    assert len(table.scores) == len(table.truth_images) == 0
    assert table.truth_starts.tolist() == [0, 0]


def test_before_any_image_without_annotations_there_are_no_categories(tmp_path):
    CocoMeanAveragePrecision().matches().save(tmp_path / "matches.npz")

    assert EvaluationMatches.load(tmp_path / "matches.npz").category_ids == ()


def test_the_metric_and_its_annotations_stay_as_they_are():
    scene = random_scene()
    metric, before = scored(scene, scene.dataset), copy.deepcopy(scene.dataset)
    expected = numbers(metric)

    metric.matches()

    assert scene.dataset == before
    assert numbers(metric) == pytest.approx(expected, nan_ok=True)


def test_boxes_alone_give_no_table_of_masks():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision(iou_types=("bbox",))
    metric.update([prediction], [target])

    assert list(metric.matches().tables) == ["bbox"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file of matches"),
        (b"", "expected the matches that an evaluation writes"),
        (b"PK\x03\x04 a part of an archive", "expected the matches that an evaluation writes"),
    ],
)
def test_a_file_that_holds_something_else_is_reported_in_one_line(tmp_path, content, message):
    path = tmp_path / "matches.npz"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError, match=message) as caught:
        EvaluationMatches.load(path)

    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_reported_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "matches.npz")

    with pytest.raises(DataError, match=r"matches\.npz: expected the matches .*expected a file, found a pipe"):
        EvaluationMatches.load(tmp_path / "matches.npz")


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("bbox_images", lambda values: values - values.max() + np.int32(14), "expected indices of 14 images"),
        ("bbox_images", lambda values: values - 1, "bbox_images: expected indices of 14 images"),
        ("bbox_detection_starts", lambda values: np.add(values, [1, 0, 0, 0]), "expected ascending rows from 0 to 132"),
        ("bbox_detection_starts", lambda values: values - [0, 0, 0, 1], "expected ascending rows from 0 to 132"),
        (
            "bbox_detection_starts",
            lambda values: np.add(values, [0, values[2] - values[1] + 1, 0, 0]),
            "bbox_detection_starts: expected ascending rows from 0 to 132",
        ),
        (
            "segm_matched",
            lambda values: values[:, :2],
            r"segm_matched: expected uint8 \(132, 5\), found .* \(132, 2\)",
        ),
        ("segm_scores", lambda values: values.astype(np.float32), "segm_scores: expected float64"),
        ("format", lambda values: values + 1, "expected format 1, found 2"),
        ("max_dets", None, "max_dets"),
        ("image_ids", lambda values: np.array([object()]), "Object arrays cannot be loaded"),
    ],
)
def test_columns_that_disagree_are_reported_before_compiled_code_reads_them(tmp_path, column, change, message):
    path = tmp_path / "matches.npz"
    matches_of(random_scene(0)).save(path)
    with np.load(path) as arrays:
        columns = dict(arrays)
    values = columns.pop(column)
    np.savez(path, **(columns if change is None else columns | {column: change(values)}))

    with pytest.raises(DataError, match=message):
        EvaluationMatches.load(path)
