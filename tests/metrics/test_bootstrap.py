"""The paired bootstrap over images and seeds, next to plain loops and other implementations."""

import contextlib
import copy
import io
import random
import re
import statistics
from dataclasses import replace

import hotcoco
import numpy as np
import pytest
from metric_scenes import Scene, pycocotools_numbers, random_scene, repeated, scored

from composer_copypaste.errors import DataError
from composer_copypaste.metrics import bootstrap
from composer_copypaste.metrics.bootstrap import (
    bootstrap_difference,
    draw_images,
    draw_seeds,
    mean_of_seeds,
    with_interval,
)

IMAGES = 8


def scenes_of_two_ways(seeds=2, images=IMAGES):
    """For each seed, detections of a baseline, and of another way that misses fewer objects; the same objects."""
    base = random_scene(5, images)
    return [thinned(base, seed, 0.5) for seed in range(seeds)], [thinned(base, seed, 0.75) for seed in range(seeds)]


def thinned(scene, seed, share):
    """The scene with this share of its detections, other ones for each seed."""
    generator = np.random.default_rng(seed)
    predictions = []
    for prediction in scene.predictions:
        kept = np.flatnonzero(generator.random(len(prediction["scores"])) < share)
        fields = {name: prediction[name][kept] for name in ("boxes", "labels", "scores")}
        predictions.append({**fields, "rles": [prediction["rles"][number] for number in kept]})
    return Scene(predictions, scene.targets, scene.dataset, scene.category_ids)


def matches_of(scenes):
    return [scored(scene, scene.dataset).matches() for scene in scenes]


def recorded_draws(monkeypatch):
    """The draws of the next bootstrap, as plain lists of drawn images and seeds."""
    draws, draw_of_images, draw_of_seeds = {}, bootstrap.draw_images, bootstrap.draw_seeds

    def images(*given):
        draws["images"] = draw_of_images(*given)
        return draws["images"]

    def seeds(*given):
        draws["seeds"] = draw_of_seeds(*given)
        return draws["seeds"]

    monkeypatch.setattr(bootstrap, "draw_images", images)
    monkeypatch.setattr(bootstrap, "draw_seeds", seeds)
    return draws


def test_an_interval_is_that_of_pycocotools_run_again_on_repeated_images(monkeypatch):
    ways, draws = scenes_of_two_ways(), recorded_draws(monkeypatch)

    found = bootstrap_difference(*map(matches_of, ways), resamples=12)

    whole = differences_by_pycocotools(ways, [1] * IMAGES)
    resampled = [differences_by_pycocotools(ways, weights) for weights in draws["images"].T.tolist()]
    for name in ("AP", "AP50", "APm"):
        drawn = zip(resampled, draws["seeds"].tolist(), strict=True)
        means = [statistics.mean(of_seeds[seed][name] for seed in seeds) for of_seeds, seeds in drawn]
        cuts = statistics.quantiles(means, n=40, method="inclusive")  # at 2.5, 5, ..., 97.5 %
        assert (found[name].low, found[name].high) == pytest.approx((cuts[0], cuts[-1]), abs=1e-12)
        assert found[name].low < found[name].high
        assert found[name].value == pytest.approx(statistics.mean(seed[name] for seed in whole), abs=1e-12)


def differences_by_pycocotools(ways, weights):
    """For each seed, the differences of all numbers, of images that are really repeated."""
    found = []
    for pair in zip(*ways, strict=True):
        baseline, other = (pycocotools_numbers(repeated(scene, weights), "segm") for scene in pair)
        found.append({name: other[name] - baseline[name] for name in other})
    return found


def test_each_resample_draws_as_many_images_as_there_are_with_replacement():
    drawn = draw_images(range(50), 400, np.random.default_rng(0))

    assert drawn.shape == (50, 400)
    assert (drawn.sum(axis=0) == 50).all()
    assert (drawn == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)
    assert drawn.var() == pytest.approx(1 - 1 / 50, abs=0.05)


def test_images_of_a_group_are_drawn_together():
    groups = {image: "large" if image < 6 else image for image in range(10)}

    drawn = draw_images(range(10), 300, np.random.default_rng(0), groups)

    assert (drawn[:6] == drawn[0]).all()
    assert (drawn[[0, 6, 7, 8, 9]].sum(axis=0) == 5).all()
    assert not (drawn[6] == drawn[7]).all()


def test_without_images_none_are_drawn():
    assert draw_images([], 5, np.random.default_rng(0)).shape == (0, 5)


def test_images_and_seeds_are_drawn_independently():
    assert bootstrap.image_generator(4).random() != bootstrap.seed_generator(4).random()


def test_an_image_without_a_group_is_named():
    with pytest.raises(DataError, match="image 2: expected its group"):
        draw_images([1, 2], 5, np.random.default_rng(0), {1: "a"})


def test_seeds_are_drawn_with_replacement_and_averaged():
    values = np.array([[1.0, 10.0], [3.0, 30.0], [5.0, 50.0]])

    assert mean_of_seeds(values, np.array([[0, 0, 2], [1, 2, 2]])).tolist() == pytest.approx([7 / 3, 130 / 3])
    drawn = draw_seeds(3, 1000, np.random.default_rng(0))
    assert drawn.shape == (1000, 3)
    assert sorted(np.unique(drawn)) == [0, 1, 2]
    assert np.mean([len(set(row)) for row in drawn.tolist()]) == pytest.approx(3 * (1 - (2 / 3) ** 3), abs=0.05)


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    matches = [matches_of(scenes) for scenes in scenes_of_two_ways()]

    first, again, other = (bootstrap_difference(*matches, resamples=50, seed=seed)["AP"] for seed in (1, 1, 2))

    assert first == again
    assert first.value == other.value
    assert first != other


def test_a_way_does_not_differ_from_itself():
    baseline, _ = map(matches_of, scenes_of_two_ways())

    found = bootstrap_difference(baseline, baseline)["AP"]

    assert (found.value, found.low, found.high, found.resamples) == (0, 0, 0, 2000)


def test_pairing_makes_the_interval_narrower_than_two_independent_ones():
    baseline, other = map(matches_of, scenes_of_two_ways())
    paired = bootstrap_difference(baseline, other, resamples=400)["AP"]

    generator = random.Random(0)
    drawn = [bootstrap.draw_images(baseline[0].image_ids, 400, np.random.default_rng(n)) for n in range(2)]
    means = [
        np.mean([bootstrap.weighted_average_precisions(each, "segm", weights).number("AP") for each in runs], axis=0)
        for runs, weights in zip((baseline, other), drawn, strict=True)
    ]
    generator.shuffle(means[0])
    unpaired = with_interval(0.0, means[1] - means[0])
    assert paired.high - paired.low < 0.8 * (unpaired.high - unpaired.low)


def test_the_interval_of_one_seed_is_that_of_hotcoco_where_images_count_once(monkeypatch):
    """hotcoco 1.3.0 drops the repetitions of a draw (findings/hotcoco-compare-counts-images-once.sh)."""
    baseline, other = (scenes[0] for scenes in scenes_of_two_ways(seeds=1, images=20))
    reference = hotcoco.compare(hotcoco_evaluation(baseline), hotcoco_evaluation(other), n_bootstrap=2000)
    matches = matches_of([baseline]), matches_of([other])
    with_repetitions = bootstrap_difference(*matches, resamples=2000)["AP"]
    draw = bootstrap.draw_images
    monkeypatch.setattr(bootstrap, "draw_images", lambda *given: np.minimum(draw(*given), 1))

    found = bootstrap_difference(*matches, resamples=2000)

    for name in ("AP", "AP50", "AP75"):
        interval, width = reference["ci"][name], found[name].high - found[name].low
        assert found[name].value == pytest.approx(reference["deltas"][name], abs=1e-12)
        assert (found[name].low, found[name].high) == pytest.approx(
            (interval["lower"], interval["upper"]), abs=0.06 * width
        )
    assert with_repetitions.high - with_repetitions.low > 1.15 * (found["AP"].high - found["AP"].low)


def hotcoco_evaluation(scene):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = hotcoco.COCO(copy.deepcopy(scene.dataset))
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in scene.results]
        evaluation = hotcoco.COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def test_resamples_without_an_object_that_counts_are_left_out_and_counted():
    found = with_interval(0.1, np.array([np.nan, 0.0, 0.1, 0.2, np.nan]))

    assert found.resamples == 3
    assert (found.low, found.high) == pytest.approx((0.005, 0.195))
    assert np.isnan(with_interval(np.nan, np.full(4, np.nan)).low)


@pytest.mark.parametrize("seeds", bootstrap.CHANCE_BY_SEEDS)
def test_few_seeds_exclude_0_by_chance_as_often_as_is_said(seeds):
    generator = np.random.default_rng(seeds)
    drawn = bootstrap.draw_seeds(seeds, 400, generator)

    intervals = [with_interval(0.0, mean_of_seeds(values, drawn)) for values in no_difference(seeds, generator)]

    excluded = np.mean([interval.low > 0 or interval.high < 0 for interval in intervals])
    assert excluded == pytest.approx(bootstrap.CHANCE_BY_SEEDS[seeds], abs=0.04)
    assert bootstrap.chance_to_exclude_zero(seeds) == bootstrap.CHANCE_BY_SEEDS[seeds]


@pytest.mark.parametrize(("seeds", "as_for"), [(7, 6), (9, 8), (14, 10), (19, 15), (49, 20), (99, 50)])
def test_numbers_of_seeds_that_were_not_simulated_have_the_chance_of_the_next_smaller_one(seeds, as_for):
    assert bootstrap.chance_to_exclude_zero(seeds) == bootstrap.CHANCE_BY_SEEDS[as_for]


def no_difference(seeds, generator, times=400):
    """Differences that vary by seed alone, around 0: the same for all of 400 resampled sets of images."""
    return np.repeat(generator.normal(size=(times, seeds, 1)), 400, axis=2)


def changed(matches, **fields):
    other = copy.copy(matches)
    for name, value in fields.items():
        object.__setattr__(other, name, value)
    return other


def test_evaluations_that_cannot_be_compared_are_refused():
    [matches] = matches_of([random_scene(0)])
    more = scored(random_scene(0), random_scene(0).dataset, max_dets=(1, 10, 200)).matches()
    fewer = matches_of([random_scene(0).first(9)])[0]
    moved = random_scene(0)
    moved.dataset["annotations"][0]["iscrowd"] ^= 1
    renamed = changed(matches, category_names=("a", "b", "c"))

    table = matches.tables["segm"]
    sizes = changed(matches, tables={"segm": replace(table, truth_counts=table.truth_counts[:, [0, 2, 1, 3]])})

    others = [("images", fewer), ("categories", renamed), ("max_dets", more), ("objects", matches_of([moved])[0])]
    for what, other in [*others, ("objects", sizes)]:
        with pytest.raises(DataError, match=f"evaluation 1 has other {what} than evaluation 0"):
            bootstrap_difference([matches], [other], resamples=5)


def test_boxes_are_compared_with_boxes_of_a_detector_that_finds_masks_too():
    matches, other = matches_of([random_scene(0), thinned(random_scene(0), 1, 0.5)])
    of_boxes = changed(other, tables={"bbox": other.tables["bbox"]})

    found, expected = (
        bootstrap_difference([matches], [each], iou_type="bbox", resamples=5)["AP"] for each in (of_boxes, other)
    )

    assert found == expected
    with pytest.raises(
        DataError, match=r"^evaluation 1: expected iou_type 'segm', found 'bbox'; give iou_type='bbox'$"
    ):
        bootstrap_difference([matches], [of_boxes], resamples=5)


def test_tables_of_other_iou_types_disagree():
    [matches] = matches_of([random_scene(0)])

    assert bootstrap.first_disagreement(matches, matches.only(["segm"])) == "IoU types"


def test_another_number_of_seeds_is_refused():
    [matches] = matches_of([random_scene(0)])

    with pytest.raises(ValueError, match=re.escape("got 0 of the baseline and 0 of the other")):
        bootstrap_difference([], [])

    with pytest.raises(ValueError, match=re.escape("got 1 of the baseline and 2 of the other")):
        bootstrap_difference([matches], [matches] * 2)
