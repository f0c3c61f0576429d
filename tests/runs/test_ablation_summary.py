"""The numbers of an ablation, from folders of trainings whose detections have known chances."""

import math
from dataclasses import replace

import numpy as np
import pytest
from ablation_folders import drawn_ablation, drawn_truth, write_run

from composer_copypaste.errors import DataError
from composer_copypaste.metrics.bootstrap import bootstrap_difference
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.runs.ablation.results import FinishedRun
from composer_copypaste.runs.ablation.summary import summarise

QUALITIES = {"plain": {0.1: 0.4, 1.0: 0.7}, "better": {0.1: 0.6, 1.0: 0.75}, "same": {0.1: 0.4}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def ablation(place):
    return drawn_ablation(place / "trainings", QUALITIES)


@pytest.fixture(scope="module")
def summary(ablation):
    return summarise(ablation, resamples=300)


def run_of(summary, name, fraction):
    [run] = [run for run in summary.runs if (run.name, run.fraction) == (name, fraction)]
    return run


def comparison_of(summary, name, fraction):
    [found] = [each for each in summary.comparisons if (each.name, each.fraction) == (name, fraction)]
    return found


def matches_of(ablation, name, fraction, seeds=(1, 2, 3)):
    return [
        EvaluationMatches.load(run.folder.matches)
        for run in ablation.runs
        if (run.name, run.fraction) == (name, fraction) and run.seed in seeds
    ]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("fraction", [0.1, 1.0])
def test_a_difference_is_the_bootstrap_difference_of_the_matches(ablation, summary, kind, fraction):
    baseline, other = (matches_of(ablation, name, fraction) for name in ("plain", "better"))

    expected = bootstrap_difference(baseline, other, iou_type=kind, resamples=300)

    found = comparison_of(summary, "better", fraction).differences[kind]
    assert set(found) == set(expected)
    for name, difference in expected.items():
        assert vars(found[name]) == pytest.approx(vars(difference), nan_ok=True)


def test_groups_of_images_are_drawn_as_wholes(ablation):
    groups = {image: image // 6 for image in range(1, 25)}

    found = summarise(replace(ablation, group_of=groups), resamples=300)

    baseline, other = (matches_of(ablation, name, 1.0) for name in ("plain", "better"))
    expected = bootstrap_difference(baseline, other, groups=groups, resamples=300)["AP"]
    assert comparison_of(found, "better", 1.0).main == expected
    assert found.evaluation.groups == 5


def test_every_seed_has_its_score_and_the_mean_is_theirs(ablation, summary):
    score = run_of(summary, "better", 0.1).scores["segm"]["AP"]

    assert sorted(score.by_seed) == [1, 2, 3]
    assert score.mean == pytest.approx(sum(score.by_seed.values()) / 3)
    [matches] = matches_of(ablation, "better", 0.1, seeds=(2,))
    assert score.by_seed[2] == pytest.approx(
        bootstrap_difference([matches], [matches], resamples=1)["AP"].value + score.by_seed[2]
    )
    assert len(set(score.by_seed.values())) == 3


def test_the_difference_of_a_category_is_that_of_its_scores(summary):
    baseline, other = (run_of(summary, name, 1.0).per_category["segm"] for name in ("plain", "better"))
    found = comparison_of(summary, "better", 1.0).per_category["segm"]

    assert set(found) == {"disc", "star"}
    for category, difference in found.items():
        assert difference.value == pytest.approx(other[category].mean - baseline[category].mean)
        assert difference.low < difference.value < difference.high


def test_a_run_that_finds_more_is_a_gain_and_saves_images(summary):
    comparison = comparison_of(summary, "better", 0.1)

    assert comparison.main.low > 0
    assert 1 < comparison.needed.value <= 10
    assert comparison.needed.largest == pytest.approx(10)


def test_how_many_images_the_baseline_needs_is_interpolated_between_its_own_points(summary):
    small, large = (run_of(summary, "plain", fraction).scores["segm"]["AP"].mean for fraction in (0.1, 1.0))
    reached = run_of(summary, "better", 0.1).scores["segm"]["AP"].mean

    expected = 10 ** ((reached - small) / (large - small))

    assert comparison_of(summary, "better", 0.1).needed.value == pytest.approx(expected)


def test_costs_and_curve_are_those_of_the_logged_rows(summary):
    run = run_of(summary, "better", 1.0)

    assert vars(run.costs[2]) == {"steps": 40, "seconds": 62.0, "gigabytes": 1.5}
    assert [point.batch for point in run.curve] == [10, 20, 30, 40]
    assert run.curve[-1].mean == pytest.approx(run.scores["segm"]["AP"].mean)
    assert run.curve[0].by_seed[3] == pytest.approx(run.scores["segm"]["AP"].by_seed[3] / 2)
    assert run.images == 500


def test_seeds_that_one_side_lacks_are_left_out_and_named(ablation):
    runs = [run for run in ablation.runs if not (run.name == "plain" and run.seed == 3)]

    found = summarise(replace(ablation, runs=runs), resamples=50)

    comparison = comparison_of(found, "better", 1.0)
    assert (comparison.seeds, comparison.left_out) == ((1, 2), (3,))
    both = [matches_of(ablation, name, 1.0, seeds=(1, 2)) for name in ("plain", "better")]
    assert comparison.main == bootstrap_difference(*both, resamples=50)["AP"]


def test_without_the_baseline_nothing_is_compared(ablation):
    found = summarise(replace(ablation, runs=[run for run in ablation.runs if run.name != "plain"]), resamples=20)

    assert not found.comparisons
    assert found.not_compared[0] == (
        "better at 10 %: not compared, since plain is finished with none of its seeds on this fraction"
    )
    assert len(found.runs) == 3


def test_a_run_that_is_evaluated_on_other_images_is_not_compared(ablation, place):
    folder = write_run(place / "other", drawn_truth(30), 0.9, seed=1)
    other = FinishedRun("other", 1.0, 1, folder, images=500)

    found = summarise(replace(ablation, runs=[*ablation.runs, other]), resamples=20)

    assert found.not_compared == ["other at 100 %: not compared, since it is evaluated with other images than plain"]
    assert run_of(found, "other", 1.0).scores["segm"]["AP"].mean > 0.3
    assert found.evaluation.images == 24


def test_a_fraction_on_which_neither_run_has_found_anything_is_not_compared(tmp_path):
    qualities = {"plain": {0.1: -1, 1.0: 0.7}, "better": {0.1: -1, 1.0: 0.8}, "sole": {0.1: 0.8, 1.0: -1}}

    found = summarise(drawn_ablation(tmp_path, qualities, seeds=(1,), images=8), resamples=20)

    compared = {(each.name, each.fraction) for each in found.comparisons}
    assert compared == {("better", 1.0), ("sole", 0.1), ("sole", 1.0)}  # a run that alone finds nothing has lost
    assert found.not_compared == [
        "better at 10 %: not compared, since neither it nor plain has found anything (mask AP is below 0.5 %); "
        "train longer"
    ]


def test_where_a_run_finds_boxes_alone_all_are_compared_by_box_ap(ablation, place):
    folder = write_run(place / "of boxes", drawn_truth(), 0.9, seed=1, kinds=("bbox",))
    runs = [*ablation.runs, FinishedRun("of_boxes", 1.0, 1, folder, images=500)]

    found = summarise(replace(ablation, runs=runs, iou_types=("bbox",)), resamples=50)

    assert (found.iou_type, found.not_compared) == ("bbox", [])
    assert {kind for run in found.runs for kind in (*run.scores, *run.per_category)} == {"bbox"}
    pair = [matches_of(ablation, "plain", 1.0, seeds=(1,)), [EvaluationMatches.load(folder.matches)]]
    of_boxes = comparison_of(found, "of_boxes", 1.0).main
    assert of_boxes == bootstrap_difference(*pair, iou_type="bbox", resamples=50)["AP"]
    of_masks = run_of(found, "better", 1.0)
    assert of_masks.curve[-1].mean == pytest.approx(of_masks.scores["bbox"]["AP"].mean)
    reached, small, large = (
        run_of(found, name, fraction).scores["bbox"]["AP"].mean
        for name, fraction in (("better", 0.1), ("plain", 0.1), ("plain", 1.0))
    )
    needed = comparison_of(found, "better", 0.1).needed
    assert needed.value == pytest.approx(10 ** ((reached - small) / (large - small)))


def test_without_a_finished_run_there_is_nothing(ablation):
    found = summarise(replace(ablation, runs=[]), resamples=20)

    assert (found.runs, found.comparisons, found.evaluation.images) == ([], [], 0)


def test_with_one_fraction_nobody_needs_more_images(ablation):
    found = summarise(replace(ablation, runs=[run for run in ablation.runs if run.fraction == 1]), resamples=20)

    assert comparison_of(found, "better", 1.0).needed is None


@pytest.mark.parametrize("name", ["matches.npz", "metrics.jsonl"])
def test_a_file_that_is_missing_is_named(ablation, place, name):
    folder = write_run(place / f"without {name}", drawn_truth(), 0.5, seed=1)
    (folder.root / name).unlink()

    with pytest.raises(DataError, match=rf"without {name}/{name}: there is no such file"):
        summarise(replace(ablation, runs=[FinishedRun("plain", 1.0, 1, folder, images=5)]), resamples=5)


def test_a_number_without_objects_is_nan(place):
    truth = drawn_truth()
    for annotation in truth[0]["annotations"]:
        annotation["area"] = 50
    runs = [
        FinishedRun(name, 1.0, 1, write_run(place / f"small {name}", truth, 0.5, seed=1), images=5)
        for name in ("plain", "better")
    ]

    found = summarise(replace(drawn_ablation(place, {"plain": {}}), runs=runs), resamples=5)

    difference = comparison_of(found, "better", 1.0).differences["segm"]["APl"]
    assert math.isnan(difference.value)
    assert difference.resamples == 0
    assert np.isnan(run_of(found, "better", 1.0).scores["segm"]["APl"].mean)
