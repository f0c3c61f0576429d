"""Every example of the README and of the site's pages runs, and what they name is there."""

import re
import shlex
from collections import Counter
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from click.testing import CliRunner
from doc_pages import DOCS, README, ROOT, blocks, commands, pages
from doc_workplace import make_workplace

import composer_copypaste
from composer_copypaste import load_ablation
from composer_copypaste.cli import main
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.runs.ablation import run as ablate
from composer_copypaste.runs.ablation.plan import plan_runs
from composer_copypaste.runs.resume import MAY_CHANGE

SMALL = ["model.backbone=small", "model.weights=none", "training.duration=1ba", "data.workers=0", "schedule.warmup=0ba"]
SMALL += ["model.detections_per_image=10"]
"""What makes an example's training short and local."""


PAGES = pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with all that the examples name, among it a trained run."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "docs").symlink_to(DOCS)
    make_workplace(folder, blocks(DOCS / "recipes.md", "yaml")[0][1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (train,) = (each for _, block in blocks(README, "console") for each in commands(block) if each[0] == "train")
        run([*train, *SMALL, "output=runs/mine"])
    return folder


@PAGES
def test_the_examples_of_a_page_run(page, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(ablate, "run_ablation", create_autospec(ablate.run_ablation, side_effect=_plan))
    names = {}  # an example may use those of one above it
    for language, block in blocks(page, "python", "console"):
        if language == "python":
            exec(compile(block, page.name, "exec"), names)
        else:
            for arguments in commands(block):
                if arguments[1].startswith("docs/results/"):
                    load_ablation(arguments[1])  # whose data are not here
                else:
                    run(short(arguments))


def run(arguments):
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 0, f"copypaste {shlex.join(arguments)}\n{result.output}"


def short(arguments):
    """The arguments of a command with which it takes seconds: trainings and ablations are checked, not run."""
    match arguments[0]:
        case "train":
            return [*arguments, *SMALL, "--dry-run"]
        case "preview":
            return [*arguments, "--batches", "2", "--images", "2"]
        case "ablate":
            return [*arguments, "--dry-run", "fractions=[0.5,1]"]
    return arguments


def _plan(ablation, **options):
    """Stands for an ablation's trainings, which take minutes; `tests/runs/test_ablations.py` runs some."""
    return plan_runs(ablation)


def test_commands_that_need_more_than_this_machine_have_keys_and_values_that_exist():
    found = [arguments for page in pages() for _, block in blocks(page, "bash") for arguments in commands(block)]
    trainings = [arguments[1:] for arguments in found if arguments[0] == "train"]
    assert len(trainings) >= 3
    for recipe, *overrides in trainings:
        load_recipe(recipe, overrides)


def test_recipes_and_ablations_on_the_pages_are_valid(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    texts = [text for page in pages() for _, text in blocks(page, "yaml")]
    assert len(texts) >= 3
    for text in texts:
        Path("from_page.yaml").write_text(text)
        if "runs:" in text:
            load_ablation("from_page.yaml")
        else:
            load_recipe("from_page.yaml")


def test_the_reference_shows_each_public_name_once():
    shown = Counter(re.findall(r"^\.\. auto\w+:: (\w+)$", "".join(reference(but=("errors", "recipe"))), re.MULTILINE))
    assert shown == Counter(dict.fromkeys(composer_copypaste._HOMES, 1))


def reference(but):
    return [page.read_text() for page in sorted((DOCS / "api").glob("*.rst")) if page.stem not in but]


def test_the_keys_that_may_change_are_those_of_the_code():
    text = (DOCS / "first_training.md").read_text()
    listed = re.search(r"Only these may change: (.*?)\. ", text, re.DOTALL)[1]
    assert set(re.findall(r"`([\w.]+)`", listed)) == MAY_CHANGE


@PAGES
def test_lines_are_short_enough_to_read(page):
    text = re.sub(r"^```text\n.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [line for line in text.splitlines() if len(line) > 140 and line[:1] not in ("|", "!")] == []


def test_the_map_of_the_package_names_each_of_its_folders():
    named = re.findall(r"^\| .*", (DOCS / "code.md").read_text(), re.MULTILINE)
    folders = {name for row in named for name in re.findall(r"`(\w+)/`", row)}
    assert {path.parent.name for path in (ROOT / "composer_copypaste").glob("*/__init__.py")} <= folders


def test_make_has_the_targets_that_the_pages_name():
    makefile = (ROOT / "Makefile").read_text()
    named = {name for page in pages() for name in re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), re.MULTILINE)}
    assert {"quickstart", "test"} <= named
    assert all(f"\n{target}:" in makefile for target in named)


def test_files_that_the_pages_name_are_there():
    text = "\n".join(page.read_text() for page in pages())
    named = set(re.findall(r"\b(?:benchmarks|examples|docs/results)/[\w/]+\.\w+", text))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_links_of_the_readme_lead_to_files_of_the_repository():
    links = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[\w-]+)?\)", README.read_text())
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []
