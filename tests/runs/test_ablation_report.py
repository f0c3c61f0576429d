"""The files of an ablation's report."""

import csv
import json
import re
from dataclasses import replace

import pytest
from ablation_folders import drawn_ablation
from PIL import Image

from composer_copypaste.metrics.bootstrap import Difference
from composer_copypaste.runs.ablation.report import console_table, write_report
from composer_copypaste.runs.ablation.results import FailedRun

QUALITIES = {"plain": {0.1: 0.4, 1.0: 0.7}, "copy_paste": {0.1: 0.6, 1.0: 0.7}}
EQUAL_WORK = "Equal work: each run trains 40 batches of 4 images."
LAST_LINES = ("Traceback (most recent call last):", "error: <the> disk is full")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return drawn_ablation(
        tmp_path_factory.mktemp("trainings"),
        QUALITIES,
        seeds=(1, 2),
        images=12,
        equal_work=[EQUAL_WORK],
        failed=[FailedRun("broken", 1.0, 1, LAST_LINES)],
        missing=["slow, 10 % of the images, seed 2"],
    )


@pytest.fixture(scope="module")
def written(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ablation") / "new"
    return folder, write_report(results, folder)


@pytest.fixture(scope="module")
def folder(written):
    return written[0]


@pytest.fixture(scope="module")
def summary(written):
    return written[1]


@pytest.fixture(scope="module")
def content(folder):
    return json.loads((folder / "results.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_report_is_a_page_and_four_files_of_results(folder):
    results = {f"results.{suffix}" for suffix in ("json", "csv", "md", "png")}
    assert {path.name for path in folder.iterdir()} == results | {"report.html"}
    with Image.open(folder / "results.png") as image:
        assert image.width > 400
    assert "](results.png)" in (folder / "results.md").read_text()


def test_the_same_runs_give_the_same_bytes(results, folder, tmp_path):
    write_report(results, tmp_path)

    assert all((tmp_path / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())


def test_the_json_holds_all_numbers_and_what_they_allow_one_to_say(content, summary):
    assert content["baseline"] == "plain"
    assert content["equal_work"] == [EQUAL_WORK]
    assert content["failed"][0]["last_lines"] == list(LAST_LINES)
    first, run = content["comparisons"][0], content["runs"][0]
    expected = summary.comparisons[0].main
    assert first["differences"]["segm"]["AP"] == vars(expected)
    assert first["verdict"] in {"gain", "unclear"}
    assert first["sentences"][0].startswith("copy_paste at 10 % (50 images): mask AP is ")
    assert "2 seeds are few" in content["reading"][-1]
    assert run["scores"]["segm"]["AP"]["by_seed"].keys() == {"1", "2"}
    assert content["evaluation"]["objects"].keys() == {"disc", "star"}
    assert "one in twenty misses the truth by chance" in content["reading"][1]


def test_the_table_of_comma_separated_values_has_a_row_for_each_training(folder, summary):
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert [(row["run"], row["fraction"], row["seed"]) for row in rows] == [
        (name, fraction, seed) for name in QUALITIES for fraction in ("0.1", "1.0") for seed in "12"
    ]
    run = summary.runs[0]
    assert float(rows[1]["segm_AP"]) == run.scores["segm"]["AP"].by_seed[2]
    assert float(rows[1]["bbox_AP_star"]) == run.per_category["bbox"]["star"].by_seed[2]
    assert rows[1]["segm_APl"] == ""  # no object is that large
    assert (rows[1]["batches"], rows[1]["seconds"], rows[1]["images"]) == ("40", "62.0", "50")


def test_the_markdown_has_tables_sentences_and_last_lines(folder, summary):
    text = (folder / "results.md").read_text()

    score = f"{100 * summary.runs[0].scores['segm']['AP'].mean:.1f}"
    assert re.search(rf"^\| plain +\| +10 % \(50\) +\| +2 +\| +{score} +\|", text, re.MULTILINE)
    assert "- copy_paste at 10 % (50 images): mask AP is" in text
    assert "broken at 100 %, seed 1 failed:\n\n```\nTraceback (most recent call last):" in text
    assert "Not finished: slow, 10 % of the images, seed 2." in text


def test_the_console_shows_the_table_in_100_columns_and_what_failed(summary):
    text = console_table(summary)

    assert max(map(len, text.splitlines())) <= 100
    assert text.count("2 seeds are few") == 1
    assert "broken at 100 %, seed 1 failed; its last lines:\n  Traceback (most recent call last):" in text
    assert "not finished: slow, 10 % of the images, seed 2" in text


def test_long_names_are_cut_off_on_the_console(summary):
    name = "a_run_with_a_name_of_fifty_letters_and_then_some_x"
    runs = [replace(run, name=name, images=118287.0) if run.name == "copy_paste" else run for run in summary.runs]
    far = Difference(-0.5, -0.6, -0.4, 2000)
    differences = {"segm": {"AP": far}, "bbox": {"AP": far}}
    comparisons = [replace(each, name=name, differences=differences) for each in summary.comparisons]

    table = console_table(replace(summary, runs=runs, comparisons=comparisons)).split("\n\n")[1]

    assert max(map(len, table.splitlines())) <= 100
    assert f"\n{name[:28]} " in table


def test_the_page_shows_every_number_and_every_sentence(folder, summary):
    page = (folder / "report.html").read_text()

    for comparison in json.loads((folder / "results.json").read_text())["comparisons"]:
        for sentence in comparison["sentences"]:
            assert sentence.replace(" %", "\u00a0%") in page
    assert page.count("<svg") == 4  # differences, AP over images, AP over steps of two fractions
    assert "error: &lt;the&gt; disk is full" in page
    assert EQUAL_WORK in page
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", page)
    scores = [run.scores["segm"][name].mean for run in summary.runs for name in ("AP", "AP50", "APs")]
    assert all(f">{100 * score:.1f}<" in page for score in scores)


def test_of_boxes_alone_every_file_speaks_of_boxes_and_none_of_masks(results, tmp_path):
    text = console_table(write_report(replace(results, iou_types=("bbox",)), tmp_path))

    files = {path.name: path.read_text() for path in tmp_path.iterdir() if path.suffix != ".png"}
    assert len(files) == 4
    assert not [name for name, content in (files | {"console": text}).items() if "mask" in content.lower()]
    assert "copy_paste at 10 % (50 images): box AP is" in text
    assert re.match("run +images +box +diff. +95 % +verdict\n +AP +interval\n", text.split("\n\n")[1])
    assert "| box AP |" in re.sub(" +", " ", files["results.md"])
    assert all(f">{header}<" in files["report.html"] for header in ("box AP", "AP of boxes by category"))
    assert "Box AP in % after each evaluation" in files["report.html"]
    assert not any(header.startswith("segm") for header in files["results.csv"].splitlines()[0].split(","))
    assert json.loads(files["results.json"])["iou_type"] == "bbox"


def test_without_a_finished_run_the_report_says_so(results, tmp_path):
    summary = write_report(replace(results, runs=[]), tmp_path)

    assert console_table(summary).startswith("No run is finished.\n\nnot finished: slow")
    assert "No run is finished." in (tmp_path / "report.html").read_text()
    assert (tmp_path / "results.csv").read_text().count("\n") == 1


def test_one_run_alone_is_reported_without_a_comparison(results, tmp_path):
    alone = [run for run in results.runs if run.name == "plain" and run.fraction == 1]

    summary = write_report(replace(results, runs=alone), tmp_path)

    assert not summary.comparisons
    assert console_table(summary).split("\n\n")[1].splitlines()[-1].split()[-2] == "baseline"
    assert (tmp_path / "report.html").read_text().count("<svg") == 1


def test_runs_that_have_found_nothing_are_no_result_and_are_told_to_train_longer(tmp_path):
    nothing = drawn_ablation(tmp_path / "trainings", {"plain": {1.0: -1}, "copy_paste": {1.0: -1}}, (1, 2), images=8)
    (tmp_path / "results.png").write_bytes(b"of an earlier report")

    summary = write_report(nothing, tmp_path)

    assert max(run.scores["segm"]["AP"].mean for run in summary.runs) < 0.005
    texts = [console_table(summary), *((tmp_path / name).read_text() for name in ("results.md", "report.html"))]
    for text in texts:
        assert "No run has found anything (mask AP is below 0.5 %), so nothing" in text.replace("\u00a0", " ")
        assert "Train longer" in " ".join(text.split())
        assert not re.search("excludes (gains|0)|interval includes|unclear|are compared with", text)
    assert json.loads((tmp_path / "results.json").read_text())["comparisons"] == []
    assert not (tmp_path / "results.png").exists()
    html = (tmp_path / "report.html").read_text().replace("\u00a0", " ")
    assert "Mask AP stayed below 0.5 % in every run on 100 % of the images." in html
    assert "<svg" not in html


def test_where_nothing_was_found_on_few_images_no_curve_is_drawn_and_it_is_said(tmp_path):
    qualities = {"plain": {0.1: -1, 1.0: 0.8}, "copy_paste": {0.1: -1, 1.0: 0.9}}
    write_report(drawn_ablation(tmp_path / "trainings", qualities, (1, 2), images=8), tmp_path)
    html = (tmp_path / "report.html").read_text().replace("\u00a0", " ")
    curves = html.partition(">AP over steps</a></h2>")[2].partition("<h2>")[0]
    assert "Mask AP stayed below 0.5 % in every run on 10 % of the images." in curves
    assert curves.count("<svg") == 1
