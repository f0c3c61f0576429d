"""The page of an evaluation."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from composer_copypaste import evaluate_predictions
from composer_copypaste.errors import DataError, OutputError, UserError
from composer_copypaste.runs.evaluation.page import _training

SQUARES = [[10, 10, 30, 30], [60, 10, 30, 30], [110, 10, 30, 30], [160, 10, 30, 30]]
"""Places of objects: x, y, width, height."""


def outline(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two images of two nuts and two bolts each.

    Found are, with high scores, in the first all four exactly; in the second a nut, a nut taken for a bolt, a bolt
    twice, and a nut where nothing is; the other bolt is missed. With a low score there is one more on nothing.
    """
    folder = tmp_path_factory.mktemp("evaluation")
    images = [{"id": n, "file_name": f"{n}.png", "width": 200, "height": 100} for n in (5, 6)]
    for image in images:
        Image.fromarray(np.full((100, 200, 3), 90, np.uint8)).save(folder / image["file_name"])
    annotations = [
        {"id": 10 * image + n, "image_id": image, "category_id": (3, 3, 8, 8)[n], "bbox": box, "area": 900,
         "iscrowd": 0, "segmentation": outline(*box)}
        for image in (5, 6) for n, box in enumerate(SQUARES)
    ]  # fmt: skip
    categories = [{"id": 3, "name": "nut"}, {"id": 8, "name": "bolt <b>"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))
    found = [(5, (3, 3, 8, 8)[n], 0.9 - n / 100, box) for n, box in enumerate(SQUARES)]
    found += [
        (6, 3, 0.8, SQUARES[0]),
        (6, 8, 0.7, SQUARES[1]),
        (6, 8, 0.95, SQUARES[2]),
        (6, 8, 0.75, [111, 10, 30, 30]),
    ]
    found += [(6, 3, 0.65, [20, 60, 30, 30]), (6, 3, 0.1, [90, 60, 30, 30])]
    keys = ("image_id", "category_id", "score", "bbox")
    results = [dict(zip(keys, row, strict=True)) | {"segmentation": outline(*row[3])} for row in found]
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "boxes.json").write_text(json.dumps([{key: each[key] for key in keys} for each in results]))
    return folder


def evaluated(place, output, predictions="results.json", **options):
    """The text of the page."""
    evaluate_predictions(place / predictions, place / "val.json", output=output, **options)
    return (output / "report.html").read_text()


@pytest.fixture(scope="module")
def page(place, tmp_path_factory):
    return evaluated(place, tmp_path_factory.mktemp("out"), images=place, min_score=0.5)


def cells(page, heading, name):
    """The texts of the row of this name in the section of this heading, after the name."""
    section = re.search(rf"<h2><a [^>]*>{heading}</a></h2>(.*?)</section>", page, re.DOTALL)[1]
    row = re.search(rf'<th scope="row"[^>]*>{re.escape(name)}</th>(.*?)</tr>', section, re.DOTALL)[1]
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def test_errors_are_counted_and_cost_what_tide_says(page):
    # masks and boxes: cost, number of all, number from the score on
    assert cells(page, "What went wrong", "wrong category")[2:] == ["1", "1", "1", "1"]
    assert cells(page, "What went wrong", "duplicate")[2:] == ["1", "1", "1", "1"]
    assert cells(page, "What went wrong", "background")[2:] == ["2", "2", "1", "1"]
    assert cells(page, "What went wrong", "missed")[2:] == ["1", "1", "1", "1"]
    costs = [float(cells(page, "What went wrong", kind)[0]) for kind in ("wrong category", "missed", "badly placed")]
    assert costs[0] > 0 < costs[1]
    assert costs[2] == 0


def test_categories_have_their_counts_and_names_are_no_markup(page):
    found = cells(page, "Categories", "bolt &lt;b&gt;")
    assert found[0] == "4"
    assert found[7:12] == ["60.0", "75.0", "3", "1", "1"]  # precision, recall, found, missed, wrong category
    assert "bolt <b>" not in page


def test_a_confused_category_is_named(page):
    assert cells(page, "Confused categories", "nut") == ["bolt &lt;b&gt;", "1", "25.0"]


def test_the_worst_image_stands_first_with_its_numbers(page):
    captions = re.findall(r"<figcaption>(\d\.png: .*?|\d found, .*?)</figcaption>", page)
    assert captions == [
        "6.png: 4 objects, 2 missed (red).",
        "2 found, 3 false (red). Quality 0.44.",
        "5.png: 4 objects, 0 missed (red).",
        "4 found, 0 false (red). Quality 1.00.",
    ]


def test_the_page_needs_nothing_from_outside_and_runs_no_script_but_its_own(page):
    assert re.findall(r'(?:src|href)="(?!#|data:image/)', page) == []
    assert page.count("<script>") == 1
    assert "default-src 'none'" in page


def test_boxes_alone_have_a_page_from_the_score_of_the_highest_f1_without_masks_and_without_images(place, tmp_path):
    page = evaluated(place, tmp_path, "boxes.json")
    # from 0.8: 6 right, none false, of 8 objects; further down the false ones are more than the right ones
    assert "With scores from 0.80 (where F1 is highest): precision 100.0\u00a0%, recall 75.0\u00a0%" in page
    assert "Boxes: AP " in page
    assert "Masks" not in page
    assert "the evaluation did not have the images" in page


def test_an_image_that_is_missing_leaves_nothing_written(place, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"5\.png|6\.png"):
        evaluate_predictions(
            place / "results.json", place / "val.json", images=tmp_path / "empty", output=tmp_path / "o"
        )
    assert not [*(tmp_path / "o").glob("*")]


def test_an_evaluation_that_is_there_is_kept(place, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(OutputError, match=r"report\.html: is there already"):
        evaluated(place, tmp_path, "boxes.json")


def test_a_score_that_is_none_is_refused(place):
    with pytest.raises(UserError, match="min_score: expected a number from 0 to 1, got 7"):
        evaluate_predictions(place / "boxes.json", place / "val.json", min_score=7.0)


def test_objects_beyond_the_limit_are_warned_of(place):
    with pytest.warns(match=r"up to 2 objects of a category in an image \(more than 1 in 2 images\)"):
        evaluate_predictions(place / "boxes.json", place / "val.json", max_dets=(1,))


def test_the_losses_of_a_run_are_shown(tmp_path):
    rows = [{"batch": n, "loss/train/total": 1 / n} for n in range(1, 30)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (section,) = _training(tmp_path / "metrics.jsonl")
    assert section.heading == "Training"
    assert "training loss" in "".join(section.parts)
    assert [*_training(tmp_path / "none.jsonl")] == []


def test_nothing_found_anywhere_has_a_page_too(place, tmp_path):
    (tmp_path / "none.json").write_text("[]")
    given = tmp_path / "none.json", place / "val.json"
    with pytest.warns(match="no result on 2 of 2 images with objects: their objects count as missed"):
        evaluate_predictions(*given, images=place, output=tmp_path / "o", allow_missing=True)
    page = (tmp_path / "o" / "report.html").read_text()
    assert "nothing was detected in any image" in page
