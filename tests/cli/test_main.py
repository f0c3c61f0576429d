"""The command line as a whole: instant help, one message for a mistake, the exit codes."""

import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from torch.distributed import DistBackendError

from composer_copypaste import cli
from composer_copypaste.cli import COMMANDS, main
from composer_copypaste.errors import UserError

MINE = [f"data.{part}.{kind}" for part in ("train", "val") for kind in ("images=.", "annotations=none.json")]


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "composer_copypaste.cli", *arguments], capture_output=True, text=True)


def fails_with(monkeypatch, error):
    @click.command()
    def command():
        raise error

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)
    return CliRunner().invoke(main, ["train"])


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from composer_copypaste.cli import main; main(sys.argv[1:], standalone_mode=False);"
        "print('HEAVY', sorted({'torch', 'composer', 'pydantic', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "finetune", *MINE], "none.json: there is no such annotation file"),
        (["train", "quickstart", "optimizer.lrr=1"], "did you mean 'optimizer.lr'?"),
        (["preview", "quickstart", "--compare", "rotaton=1"], "copy_paste.rotaton: unknown key"),
        (["preview", "finetune", *MINE], "none.json: there is no such annotation file"),
        (["eval"], "expected MODEL"),
        (["eval", "none"], "none: expected a checkpoint, or the folder of a run; there is none"),
        (["eval", "none", "--best"], "none: expected the folder of a run that kept its best checkpoint"),
        (["eval", "--recipe", "finetune", *MINE], "none.json: there is no such annotation file"),
        (["eval", "--predictions", "none", "--annotations", "none"], "none: there is no such file of results"),
        (["eval", "none", "--max-dets", "a"], "--max-dets: expected ascending numbers"),
        (["predict", "none.png", "--weights", "none"], "none: expected a checkpoint, or the folder of a run"),
        (["predict", "none.png", "--weights", "none.onnx"], "none.png: there is no such file or folder"),
        (["export", "none", "a.onnx"], "none: expected a checkpoint, or the folder of a run"),
        (["info", "none"], "none: there is no such file"),
        (["ablate", "parts", "base=finetune", *(f"common.{key}" for key in MINE)], "none.json: there is no such"),
        (["split", "parts", "--annotations", "none", "--parts", "a=1"], "none: there is no such annotation file"),
        (["subset", "a.json", "--annotations", "none"], "none: there is no such annotation file"),
        (["merge", "a.json", "none", "none"], "none: there is no such annotation file"),
        (["leaks", "none", "none"], "none: there is no such annotation file"),
        (["augment", "a", "--images", "none"], "none: there is no such folder of images"),
        (["shard", "a", "--images", ".", "--annotations", "none"], "none: there is no such annotation file"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_mistake_is_found_before_a_framework_is_loaded(tmp_path, arguments, message):
    code = (
        "import sys; from composer_copypaste.cli import main; main(sys.argv[1:], standalone_mode=False)\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'composer', 'numpy'} & set(sys.modules)))"
    ).replace("import sys;", "import sys\ntry:", 1)
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert message in done.stderr
    assert done.stdout == "2 []\n"


def test_what_takes_seconds_is_said_before_it_is_loaded(tmp_path):
    code = (
        "import sys, click; from composer_copypaste import cli\n"
        "cli.say_loading('preview shapes'); cli.say_loading('train', composer=True)\n"
        "cli.main(['recipe', 'list'], standalone_mode=False)\n"
        "import logging; log = logging.getLogger('composer_copypaste.functional.engines.compilation')\n"
        "log.info('compiling')\n"
        "import torch; cli.say_loading('nothing')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = "loading PyTorch to preview shapes\nloading PyTorch and Composer to train\ncompiling\n"
    assert done.stderr == expected
    again = code.replace("import sys,", "import sys; sys.modules['composer'] = None\nimport")
    done = subprocess.run([sys.executable, "-c", again], capture_output=True, text=True)
    first, *_, last = done.stderr.splitlines()
    assert first == "loading PyTorch to preview shapes"
    assert "MissingPackageError: training, CopyPaste and MaskRCNN need MosaicML Composer" in last


def test_a_command_to_go_on_with_names_a_program_that_the_shell_finds(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "copypaste"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for called, expected in (
        ("bin/copypaste", "bin/copypaste"),
        ("/a/cli/__main__.py", "copypaste"),
    ):
        monkeypatch.setattr(sys, "argv", [called])
        assert cli.program() == expected
    monkeypatch.setenv("PATH", str(program.parent))
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert cli.program() == "copypaste"


def test_help_lists_every_command():
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert name in result.output
        assert line in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_introduces_itself_as_the_list_does_and_shows_an_example(name):
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert COMMANDS[name] in result.output
    assert "\n    copypaste " + name in result.output


def test_a_users_mistake_ends_in_one_message_and_exit_code_2(monkeypatch):
    result = fails_with(monkeypatch, UserError("my.json: line 3: expected a number"))
    assert result.exit_code == 2
    assert result.stderr == "error: my.json: line 3: expected a number\n"
    assert result.stdout == ""


# Ctrl-C, and what Composer makes of it
@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(130)])
def test_an_interruption_ends_in_one_line_and_exit_code_130(monkeypatch, interruption):
    handled = []
    monkeypatch.setattr(cli.signal, "signal", lambda *given: handled.append(given))
    result = fails_with(monkeypatch, interruption)
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"
    # else torch raises an error while Python exits, where a signal to all processes has ended a loading one too
    assert handled == [(cli.signal.SIGCHLD, cli.signal.SIG_DFL)]


GLOO = RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:7")


@pytest.mark.parametrize("error", [GLOO, DistBackendError("NCCL error")], ids=["gloo", "nccl"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_another_left_alone_says_so_in_one_line_where_it_is_seen(monkeypatch, error, rank):
    ignored = []
    monkeypatch.setattr(cli.signal, "signal", lambda *given: ignored.append(given))
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    result = fails_with(monkeypatch, error)
    assert result.exit_code == 2
    assert result.stderr == ("" if rank else f"error: {cli.CONNECTION_LOST}\n")
    assert ignored == [(cli.signal.SIGTERM, cli.signal.SIG_IGN)]


def test_a_loading_process_without_shared_memory_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(cli.signal, "signal", lambda *given: None)
    result = fails_with(monkeypatch, RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is"))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: a loading process ran out of shared memory")
    assert "--shm-size=8g, or load without such processes: data.workers=0" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("is_cause", [False, True])
def test_a_signal_to_all_processes_that_torch_notices_first_is_no_want_of_memory(monkeypatch, is_cause):
    monkeypatch.setattr(cli.signal, "signal", lambda *given: None)
    error = RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated. ")
    if is_cause:
        error, error.__cause__ = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), error
    result = fails_with(monkeypatch, error)
    assert (result.exit_code, result.stderr) == (143, "ended\n")


def test_other_errors_of_torch_are_not_hidden(monkeypatch):
    assert isinstance(fails_with(monkeypatch, RuntimeError("shape '[3]' is invalid")).exception, RuntimeError)


NO_NAME = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", NO_NAME, "--dry-run"],
        ["train", "quickstart", f"data.shapes.folder={NO_NAME}", "--dry-run"],
        ["train", "quickstart", f"output={NO_NAME}"],
        ["eval", NO_NAME],
        ["shard", "a", "--images", ".", "--annotations", NO_NAME],
    ],
)
def test_a_name_that_no_file_can_have_is_one_line(arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert re.fullmatch(r"error: (x{300}|'x{50,}\.\.\.): .*file name too long.*\n", result.stderr, re.IGNORECASE)


def test_what_the_system_refuses_of_a_file_is_one_line_with_how_to_go_on(monkeypatch):
    error = PermissionError(13, "Permission denied", "locked/a.png")
    error.add_note("Put it right: then the same command goes on")
    result = fails_with(monkeypatch, error)
    assert result.exit_code == 2
    assert result.stderr == ("error: locked/a.png: permission denied. Put it right: then the same command goes on\n")
    assert isinstance(fails_with(monkeypatch, OSError("of no file")).exception, OSError)


def test_our_own_mistakes_are_not_hidden(monkeypatch):
    assert isinstance(fails_with(monkeypatch, ZeroDivisionError()).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "no such command 'trian'. See: copypaste --help"),
        (["--verbos"], "no such option"),
        (["train"], "missing argument 'RECIPE'. See: copypaste train --help"),
        (["train", "quickstart", "--dri-run"], "no such option"),
        (["eval", "a", "--images"], "option '--images' requires an argument. See: copypaste --help"),
        (["recipe", "shw"], "no such command 'shw'"),
        (
            ["shard", "a", "--images", ".", "--annotations", ".", "--processes", "0"],
            "invalid value for '--processes': 0",
        ),
        (["shard", "a"], "missing option '--images'. See: copypaste shard --help"),
    ],
)
def test_a_wrong_command_line_is_one_line_that_says_where_help_is(arguments, message):
    result = CliRunner().invoke(main, arguments, prog_name="copypaste")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: command line: {message}")
    assert re.search(r" See: copypaste( \w+)* --help\n$", result.stderr)
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["recipe"]])
def test_without_a_command_comes_the_help(arguments):
    assert "Commands:" in CliRunner().invoke(main, arguments).output


def test_a_reader_that_stops_reading_is_no_error_worth_a_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "composer_copypaste.cli", "recipe", "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()


def test_the_module_runs_as_a_program_under_the_commands_name():
    result = run("recipe", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: copypaste recipe ")
