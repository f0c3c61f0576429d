"""Commands and options that messages advise exist."""

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_info import write_data_set

import composer_copypaste
from composer_copypaste.cli import COMMANDS, main

PACKAGE = Path(composer_copypaste.__file__).parent
OTHERS = {"--shm-size", "--stop-at-end-of-input", "--dask"}
"""Options of Docker, and of processes that no user starts."""

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def options_of(command):
    """Those of a command, and of the commands in it."""
    found = import_module(f"composer_copypaste.cli.{command}").command
    parameters = [parameter for each in (found, *getattr(found, "commands", {}).values()) for parameter in each.params]
    return {name for parameter in parameters for name in parameter.opts} | {"--help"}


def texts():
    """The module and the text of each string of the package but for styles; what is filled in is a box."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "html.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield path, "".join(part.value if isinstance(part, ast.Constant) else "␣" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value


def test_every_option_that_a_text_names_is_one_of_a_command():
    known = set().union(*map(options_of, COMMANDS)) | OTHERS | {"--version"}
    named = {(option, path.name) for path, text in texts() for option in OPTION.findall(text)}
    assert len(named) > 50
    assert sorted(each for each in named if each[0] not in known) == []


def test_every_option_in_a_commands_module_is_its_own():
    for path, text in texts():
        if path.parent.name == "cli" and path.stem in COMMANDS and "copypaste" not in text:
            assert set(OPTION.findall(text)) <= options_of(path.stem), (path, text)


def test_every_command_that_a_text_names_exists_and_has_the_options_that_follow_it():
    advised = [
        (path, *match)
        for path, text in texts()
        for match in re.findall(r"(?<![\w.-])copypaste ([a-z]+)\b([^\n.;,)']*)", text)
        if match[0] != "import"
    ]
    assert len(advised) > 30
    for path, command, rest in advised:
        assert command in COMMANDS, path
        assert set(OPTION.findall(rest)) <= options_of(command), (path, command, rest)


@pytest.mark.parametrize(("iscrowd", "advice"), [(1, "data.crowds=objects"), (0, None)])
def test_info_advises_no_option_that_it_lacks(tmp_path, iscrowd, advice):
    result = CliRunner().invoke(main, ["info", str(write_data_set(tmp_path / "a.json", iscrowd=iscrowd))])
    assert result.exit_code == 0, result.output
    assert advice is None or advice in result.stdout
    assert set(OPTION.findall(result.stdout)) <= options_of("info")
