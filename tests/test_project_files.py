"""The project's files for contributors and for the hosting site say the same as the code and the Makefile."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import composer_copypaste

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"


def targets_of(text):
    return set(text.split()) - {"make"}


def test_the_hosting_sites_checks_run_all_that_ci_runs():
    [command] = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    matrix = yaml.safe_load((WORKFLOWS / "checks.yml").read_text())["jobs"]["checks"]["strategy"]["matrix"]["targets"]
    assert targets_of(command.partition("#")[0]) <= set().union(*map(targets_of, matrix))
    known = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    assert set().union(*map(targets_of, matrix)) <= known


def test_hooks_run_what_make_lint_runs():
    recipe = (ROOT / "Makefile").read_text().partition("\nlint: ")[2].partition("\n\n")[0]
    commands = {line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe.splitlines()[1:]}
    [repository] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {hook["entry"].removesuffix(" --force-exclude") for hook in repository["hooks"]} == commands


def test_only_the_job_that_publishes_may_ask_for_an_identity_and_it_runs_nothing_of_ours():
    release = yaml.safe_load((WORKFLOWS / "release.yml").read_text())
    assert release["permissions"] == {"contents": "read"}
    assert [name for name, job in release["jobs"].items() if "permissions" in job] == ["publish"]
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert release["jobs"]["build"]["needs"] == "checks"
    assert not any("run" in step or "checkout" in step["uses"] for step in publish["steps"])


def test_the_version_stands_alike_in_all_places():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert composer_copypaste.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda p: p.stem)
def test_an_issue_form_has_what_the_hosting_site_asks_for(form):
    content = yaml.safe_load(form.read_text())
    assert content.keys() >= {"name", "description", "body"}
    assert all(part["type"] in ("input", "textarea", "dropdown", "checkboxes", "markdown") for part in content["body"])
    names = [part["id"] for part in content["body"]]
    assert len(names) == len(set(names))
    assert any(part.get("validations", {}).get("required") for part in content["body"])


def test_the_guide_to_a_new_setting_names_files_and_commands_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`((?:composer_copypaste|tests|docs|\.github)/[\w./]+)`", text):
        assert (ROOT / name).exists(), name
    for name in ("plan.py", "layout.py", "engines/torch_engine.py"):
        assert f"`{name}`" in text
        assert (ROOT / "composer_copypaste" / "functional" / name).exists()
    targets = set(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split())
    assert {word for line in re.findall(r"`?make ([\w -]+)`?$|`make ([\w-]+)`", text, re.MULTILINE) for part in line
            for word in part.split()} <= targets  # fmt: skip
