"""Runs whose folder somebody has changed: refused in one line that names the file, and left as they are."""

import re
import shutil
from pathlib import Path

import pytest
from shapes_recipe import tiny_recipe

from composer_copypaste.errors import DataError, OutputError
from composer_copypaste.integrations.composer.checkpoints import delete_old_checkpoints, saved_checkpoints
from composer_copypaste.metrics.report import read_score_tables
from composer_copypaste.runs.dry_run import describe_run
from composer_copypaste.runs.evaluation.run import evaluate_checkpoint
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import train


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tampered")


@pytest.fixture(scope="module")
def recipe(place):
    return tiny_recipe(place)


@pytest.fixture(scope="module")
def complete(place, recipe):
    train(recipe, folder := RunFolder(place / "complete"))
    return folder


@pytest.fixture
def run(complete, tmp_path):
    """A copy of a complete run."""
    return RunFolder(shutil.copytree(complete.root, tmp_path / "run", symlinks=True))


@pytest.fixture
def interrupted(run):
    """A run that stopped after its first batch."""
    for path in (run.predictions, run.evaluation, *saved_checkpoints(run.checkpoints)[1:]):
        path.unlink()
    delete_old_checkpoints(run.checkpoints)
    return run


def contents(folder):
    return {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}


BROKEN = {
    "data.json": ("{", "not valid JSON"),
    "categories.json": ("{", "not valid JSON"),
    "metrics.jsonl": ('{"batch": 1, "loss/train/total": "x"}\n', "line 1: expected numbers by their name"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_run_with_a_broken_file_is_not_resumed_and_the_file_named(interrupted, recipe, name):
    text, problem = BROKEN[name]
    (interrupted.root / name).write_text(text)
    before = contents(interrupted)
    with pytest.raises(OutputError, match=f"^{re.escape(str(interrupted.root / name))}: .*{problem}"):
        train(recipe, interrupted)
    assert contents(interrupted) == before


def test_checksums_of_another_shape_are_named(interrupted, recipe):
    interrupted.data.write_text("[1, 2]")
    for resume in (describe_run, train):
        with pytest.raises(OutputError, match=r"data.json: expected a checksum for each data set, found \[1, 2\]; put"):
            resume(recipe, interrupted)


@pytest.mark.parametrize("name", [path.name for path in RunFolder(Path()).contents])
def test_a_folder_in_place_of_a_file_and_the_reverse_are_refused_before_anything_is_done(interrupted, recipe, name):
    path = interrupted.root / name
    if name in ("checkpoints", "training_pictures"):
        shutil.rmtree(path, ignore_errors=True)
        path.symlink_to("nowhere")
    else:
        path.unlink(missing_ok=True)
        path.mkdir()
    before = contents(interrupted)
    for resume in (describe_run, train):
        with pytest.raises(OutputError, match=f"^{re.escape(str(path))}: expected a f.*; move it away"):
            resume(recipe, interrupted)
    assert contents(interrupted) == before


def test_a_link_to_nothing_is_no_folder_for_a_run(recipe, tmp_path):
    (tmp_path / "run").symlink_to("nowhere")
    for resume in (describe_run, train):
        with pytest.raises(OutputError, match="expected a folder for the run, found a file, or a link to nothing"):
            resume(recipe, RunFolder(tmp_path / "run"))


def test_what_cannot_be_written_in_a_folder_is_named(interrupted, recipe):
    blocked = interrupted.checkpoints / ".latest-rank0.pt.unfinished"
    blocked.mkdir()
    with pytest.raises(OutputError, match=f"^{re.escape(str(blocked))}: cannot be written: Is a directory"):
        train(recipe, interrupted)


def test_a_trained_run_whose_rows_were_removed_is_finished_without_them(run, recipe):
    for path in (run.predictions, run.curves, run.metrics):
        path.unlink()
    train(recipe, run)
    assert run.is_complete
    assert run.curves.exists()


@pytest.mark.parametrize("text", ["{", "7", '{"a": 1}', '[{"id": 1}]'])
def test_an_evaluation_names_a_file_of_categories_that_holds_something_else(run, recipe, text):
    run.categories.write_text(text)
    with pytest.raises(DataError, match=r"categories.json: (line 1, column 2: not valid JSON|expected a list of )"):
        evaluate_checkpoint(run.latest_checkpoint, recipe)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "{",
        "7",
        "{}",
        '{"images": 4, "max_dets": [1], "bbox": {"AP": "x"}}',
        f'{{"images": 4, "max_dets": [1], "bbox": {{"AP": {10**400}}}}}',
    ],
)
def test_scores_of_a_complete_run_that_are_gone_or_broken_are_named_with_what_makes_them_anew(tmp_path, text):
    folder = RunFolder(tmp_path)
    if text is not None:
        folder.evaluation.write_text(text)
    with pytest.raises(OutputError, match=rf"evaluation.json: .*; 'copypaste eval {tmp_path}' scores the run again$"):
        read_score_tables(folder.evaluation)
