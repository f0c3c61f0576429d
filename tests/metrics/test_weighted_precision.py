"""Average precision of weighted images, next to pycocotools on images that are really repeated."""

import numpy as np
import pytest
import torch
from metric_scenes import (
    CATEGORY_IDS,
    Scene,
    as_prediction,
    corners,
    crowded_scene,
    ellipse,
    encode,
    numbers,
    pycocotools_evaluation,
    pycocotools_numbers,
    random_scene,
    repeated,
    scored,
)

from composer_copypaste.metrics.matches import EvaluationMatches, MatchTable
from composer_copypaste.metrics.weighted_precision import BLOCK, NUMBERS, weighted_average_precisions

KINDS = ("bbox", "segm")


def weighted(scene, kind, *weights, **options):
    """The numbers for each set of weights."""
    matches = scored(scene, scene.dataset, **options).matches()
    precisions = weighted_average_precisions(matches, kind, np.array(weights, dtype=np.int32).T)
    return [dict(zip(NUMBERS, column, strict=True)) for column in precisions.overall.T]


def of_pycocotools(scene, kind, **options):
    return {name: value for name, value in pycocotools_numbers(scene, kind, **options).items() if name in NUMBERS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_with_every_image_once_the_numbers_are_those_of_the_metric(kind, seed):
    scene = random_scene(seed)
    expected = numbers(scored(scene, scene.dataset), kind)

    found = weighted(scene, kind, np.ones(14))[0]

    assert found == pytest.approx({name: expected[name] for name in NUMBERS}, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_with_weights_the_numbers_are_those_of_pycocotools_on_images_that_are_repeated(kind, seed):
    scene = random_scene(seed, images=11)
    weights = np.random.default_rng(seed).integers(0, 4, 11)

    found = weighted(scene, kind, weights)[0]

    assert found == pytest.approx(of_pycocotools(repeated(scene, weights), kind), abs=1e-12, nan_ok=True)


def test_the_random_scenes_have_ties_within_images_that_copies_do_not_share():
    """Otherwise the test above would pass with all copies of a detection next to each other."""
    scores = [prediction["scores"].numpy() for prediction in random_scene(0, images=11).predictions]

    assert sum(len(values) - len(np.unique(values)) for values in scores) > 20


@pytest.mark.parametrize("right_first", [True, False])
def test_copies_of_a_right_and_a_wrong_detection_with_equal_scores_alternate(right_first):
    scene = tied_scene(right_first=right_first)

    found = weighted(scene, "segm", [3], [1])

    expected = [of_pycocotools(repeated(scene, [weight]), "segm") for weight in (3, 1)]
    assert found == [pytest.approx(each, abs=1e-12, nan_ok=True) for each in expected]
    assert (found[0]["AP50"] == pytest.approx(found[1]["AP50"], abs=1e-3)) is not right_first


def tied_scene(*, right_first):
    """An image with two objects and three detections of one score: one finds an object, two nothing."""
    masks = [ellipse(60, 80, center, (9, 9)) for center in ((20, 20), (40, 60))]
    elsewhere = ellipse(60, 80, (45, 20), (9, 9))
    found = [(masks[0], 1, 0.5), (elsewhere, 1, 0.5), (elsewhere, 1, 0.5)]
    annotations = [
        {"id": n, "image_id": 1, "category_id": 3, "bbox": [*corners(encode(mask))[:2], 18, 18], "iscrowd": 0,
         "area": int(mask.sum()), "segmentation": {**encode(mask), "counts": encode(mask)["counts"].decode()}}
        for n, mask in enumerate(masks, 1)
    ]  # fmt: skip
    dataset = {
        "images": [{"id": 1, "height": 60, "width": 80}],
        "annotations": annotations,
        "categories": [{"id": id_, "name": str(id_)} for id_ in CATEGORY_IDS],
    }
    target = {"image_id": torch.tensor(1)}
    return Scene([as_prediction(found if right_first else found[::-1])], [target], dataset)


def test_detections_beyond_the_last_limit_do_not_count():
    scene = crowded_scene()

    found = [weighted(scene, "bbox", [2], max_dets=(1, 10, limit))[0]["AP"] for limit in (100, 250)]

    for limit, value in zip((100, 250), found, strict=True):
        evaluation = pycocotools_evaluation(repeated(scene, [2]), "bbox", max_dets=(1, 10, limit))
        precision = evaluation.eval["precision"][:, :, :, 0, 2]
        assert value == pytest.approx(precision[precision > -1].mean(), abs=1e-12)
    assert found[0] < found[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_of_a_category_are_those_of_pycocotools_for_it_alone(kind):
    scene, weights = random_scene(3), np.arange(14) % 3
    matches = scored(scene, scene.dataset).matches()

    found = weighted_average_precisions(matches, kind, weights[:, None].astype(np.int32))

    for number, category in enumerate(CATEGORY_IDS):
        expected = of_pycocotools(repeated(scene, weights), kind, categories=[category])
        assert {name: float(found.number(name, number)[0]) for name in NUMBERS} == pytest.approx(
            expected, abs=1e-12, nan_ok=True
        )


def test_a_category_whose_objects_are_not_drawn_does_not_count():
    scene = random_scene(0)
    with_objects = {a["image_id"] for a in scene.dataset["annotations"] if a["category_id"] == 90 and not a["iscrowd"]}
    weights = [0 if image["id"] in with_objects else 1 for image in scene.dataset["images"]]

    found = weighted(scene, "segm", weights)[0]

    assert 0 < sum(weights) < 14
    assert found == pytest.approx(of_pycocotools(repeated(scene, weights), "segm"), abs=1e-12, nan_ok=True)


def test_a_category_of_which_nothing_is_detected_counts_as_0():
    scene, weights = random_scene(1), np.arange(14) % 3
    for prediction in scene.predictions:
        kept = prediction["labels"] != 3
        rles = [rle for rle, is_kept in zip(prediction["rles"], kept.tolist(), strict=True) if is_kept]
        prediction |= {name: prediction[name][kept] for name in ("boxes", "labels", "scores")} | {"rles": rles}

    found = weighted(scene, "segm", weights)[0]

    assert found == pytest.approx(of_pycocotools(repeated(scene, weights), "segm"), abs=1e-12, nan_ok=True)


def test_without_any_image_all_numbers_are_nan():
    assert all(np.isnan(value) for value in weighted(random_scene(0), "bbox", np.zeros(14))[0].values())


def test_weights_of_another_number_of_images_are_refused():
    with pytest.raises(ValueError, match="expected weights of 14 images, got 13"):
        weighted(random_scene(1), "segm", np.ones(13))


def test_many_sets_of_weights_give_what_each_gives_alone():
    scene, count = random_scene(1), 2 * BLOCK + 3
    weights = np.random.default_rng(0).integers(0, 3, (count, 14))

    together = weighted(scene, "segm", *weights)

    alone = [weighted(scene, "segm", weights[k])[0] for k in (0, BLOCK - 1, BLOCK, count - 1)]
    assert [together[k] for k in (0, BLOCK - 1, BLOCK, count - 1)] == [pytest.approx(a, nan_ok=True) for a in alone]


def test_a_recall_threshold_is_reached_by_exactly_that_share_of_the_objects():
    """Such as 0.29 by 29 of 100: 0.29 * 100 is less than 29."""
    found = np.arange(101)
    weights = np.concatenate([np.arange(100)[:, None] < found, np.arange(100)[:, None] >= found])
    one_of_200 = np.concatenate([np.arange(100) < 1, np.full(100, 2) - (np.arange(100) < 1)])
    weights = np.concatenate([weights, one_of_200[:, None]], axis=1).astype("i4")

    precisions = weighted_average_precisions(matches_of_images(detected=100, missed=100), "bbox", weights)

    expected = [(np.linspace(0, 1, 101) <= count / 100).mean() for count in found[1:]]
    assert precisions.number("AP50")[1:].tolist() == pytest.approx([*expected, 1 / 101], abs=1e-12)
    assert precisions.number("AP50")[0] == 0


def matches_of_images(detected, missed):
    """Images with one object each, which is detected in the first ones."""
    images = np.arange(detected + missed)
    table = MatchTable(
        detection_starts=np.array([0, detected]),
        scores=np.linspace(1, 0.1, detected),
        images=images[:detected].astype(np.int32),
        matched=np.full((detected, 5), 255, np.uint8),
        ignored=np.zeros((detected, 5), np.uint8),
        truth_starts=np.array([0, detected + missed]),
        truth_images=images.astype(np.int32),
        truth_counts=np.ones((detected + missed, 4), np.int32),
    )
    return EvaluationMatches(images, (1,), ("thing",), (1, 10, 100), {"bbox": table})
