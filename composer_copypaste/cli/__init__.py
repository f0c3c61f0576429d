"""The command line: ``copypaste``, whose commands are imported only when they are called, so that help is instant.

A command lives in a module of its own, exports a click command named ``command``, imports nothing heavy at its top, and
is listed in ``COMMANDS`` with the first line of its help.
"""

import logging
import os
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from click.core import ParameterSource
from click.exceptions import NoArgsIsHelpError

from composer_copypaste import __version__
from composer_copypaste.distributed import (
    errors_raised_once,
    is_first_process_of_node,
    is_loading_terminated,
    is_lost_connection,
    why_loading_ended,
)
from composer_copypaste.errors import DataWarning, OldSettingWarning, RecipeError, SlowWarning, UserError
from composer_copypaste.extras import check_composer
from composer_copypaste.files import check_exists

if TYPE_CHECKING:
    from composer_copypaste.data.annotation_json import BadObjects, ReadingOptions

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


COMMANDS = {
    "preview": "Show on a page what copy-paste makes of a recipe's images.",
    "train": "Train a recipe, evaluate it, and leave everything in one folder.",
    "eval": "Score a checkpoint, or COCO results, on a data set, by COCO's rules.",
    "predict": "Find objects in images, and write them as a COCO results file.",
    "export": "Write a trained model as an ONNX, TorchScript or Detectron2 file.",
    "info": "Say what a checkpoint, a data set or a run is, and what is in it.",
    "ablate": "Train runs that differ in a few keys, and compare them.",
    "split": "Divide a data set into parts, such as train and val.",
    "subset": "Write a part of a data set.",
    "merge": "Merge annotation files, and rename or merge their categories.",
    "leaks": "Find images that two annotation files share.",
    "augment": "Write new images by copy-paste, as an offline data set.",
    "shard": "Write a data set as shards, which recipes stream.",
    "recipe": "List, show and check recipes.",
}

STOPPED = {130: "interrupted", 143: "ended"}
"""Exit codes of a program that Ctrl-C or SIGTERM ended: 128 and the signal's number."""

CONNECTION_LOST = (
    "lost the connection to another process of this run, which has ended, or hangs: put right what it says, below or "
    "on the screen of its node"
)

RESUME_COMMAND = f"{__name__}.resume_command"
"""The key in click's ``meta`` under which a command keeps the command line that goes on after a stop."""
RESUME_HOW = f"{__name__}.resume_how"
"""The key under which it says what that command line does, where that is not "to go on"."""

_format_of_python = warnings.formatwarning

CROWDS_HELP = "What annotations marked as crowds are: single objects, or crowds, which no score counts"
BAD_OBJECTS_HELP = "Whether an object without a usable outline or box is refused (default), or left out with a warning."


class ExistingPath(click.Path):
    """The type of an argument that names a file or a folder: a mistake in it is found before anything is loaded."""

    def __init__(self, what: str) -> None:
        super().__init__(path_type=Path)
        self.what = what
        """What has this path, for the message where nothing has: "annotation file"."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, which is there."""
        check_exists(value, self.what)
        return super().convert(value, param, ctx)


ANNOTATION_FILE = ExistingPath("annotation file")
FOLDER_OF_IMAGES = ExistingPath("folder of images")


class LazyGroup(click.Group):
    """A group whose commands are modules of this package; a user's mistakes end in one message."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands' names, in the order of their use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command does, without importing it."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take what stands before the command's name."""
        try:
            with _usage_in_one_line():
                return super().parse_args(ctx, args)
        except UserError as error:
            _exit_with(error)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; print what the user can put right instead of a traceback."""
        try:
            with _usage_in_one_line():
                return super().invoke(ctx)
        except UserError as error:
            _exit_with(error)
        except OSError as error:  # of a file where no command expects it: a name too long, a folder that is locked
            if error.filename is None:
                raise
            reason = f"{error.filename}: {(error.strerror or str(error)).lower()}"
            _exit_with(UserError(". ".join([reason, *getattr(error, "__notes__", ())])))
        except RuntimeError as error:
            _exit_after_another_process(error, ctx.meta)
        except (KeyboardInterrupt, SystemExit) as stop:  # Composer turns signals into the latter
            code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
            if code not in STOPPED:
                raise
            _exit_after_stop(code, ctx.meta)


def _exit_after_another_process(error: RuntimeError, meta: Mapping[str, Any]) -> NoReturn:
    """Say that a loading process, or another process of the run, has ended, and exit; raise any other error."""
    if is_loading_terminated(error):
        _exit_after_stop(143, meta)
    if (ended := why_loading_ended(error)) is not None:
        _expect_processes_to_end()
        _exit_with(UserError(_append_command(ended, meta)))
    if not is_lost_connection(error):
        raise error
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher sends it, which would cut the message off
    if is_first_process_of_node():
        click.echo(f"error: {_append_command(CONNECTION_LOST, meta)}", err=True)
    sys.exit(2)


def _exit_after_stop(code: int, meta: Mapping[str, Any]) -> NoReturn:
    """Say that a signal ended the command, and how to go on, and exit with its code."""
    _expect_processes_to_end()
    if is_first_process_of_node():
        click.echo(_append_command(STOPPED[code], meta), err=True)
    sys.exit(code)


def _expect_processes_to_end() -> None:
    """Let loading processes end without a word: torch's handler would raise an error wherever Python is just then."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@contextmanager
def _usage_in_one_line() -> Iterator[None]:
    """Turn click's errors of usage, which have four lines, into one line."""
    try:
        yield
    except NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        text = error.format_message()
        end = "" if text[-1] in ".?)" else "."
        help_of = error.ctx.command_path if error.ctx else "copypaste"
        with errors_raised_once():
            raise RecipeError(f"command line: {text[0].lower()}{text[1:]}{end} See: {help_of} --help") from None


def _format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """One line for a warning about the user's data or settings, without a place in our code; else Python's format."""
    if issubclass(category, DataWarning | OldSettingWarning | SlowWarning):
        return f"warning: {message}\n"
    return _format_of_python(message, category, filename, lineno, line)


class _LogOfLongWork(logging.Handler):
    """Shows log messages about long work above a progress bar, from one process only."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message as a line on the standard error stream."""
        from multiprocessing import parent_process

        from tqdm import tqdm

        if is_first_process_of_node() and parent_process() is None:
            tqdm.write(record.getMessage(), file=sys.stderr)


def say_loading(purpose: str, *, composer: bool = False) -> None:
    """Say what PyTorch, and Composer, are being loaded for, which takes seconds.

    Raises:
        MissingPackageError: where Composer is to be loaded, and missing.
    """
    if composer:
        check_composer()
    if _is_own_process() and is_first_process_of_node():
        click.echo(f"loading PyTorch{' and Composer' * composer} to {purpose}", err=True)


def _is_own_process() -> bool:
    """Whether this process only runs the command line, and is no program that has loaded PyTorch and calls it."""
    return "torch" not in sys.modules


def _exit_with(error: UserError) -> NoReturn:
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def is_given(context: click.Context, name: str) -> bool:
    """Whether a parameter has been given, on the command line or otherwise, and is not the default."""
    return context.get_parameter_source(name) is not ParameterSource.DEFAULT


def is_override(argument: str) -> bool:
    """Whether an argument is KEY=VALUE, as model.box_score_thresh=0.3, and not the name of a file."""
    return re.match(r"\w+(\.\w+)+=", argument) is not None and not Path(argument).exists()


def option(name: str, value: str | None = None) -> str:
    """How a setting is given on the command line, for messages: ``max_unmatched`` is "--max-unmatched"."""
    return " ".join([f"--{name.replace('_', '-')}", *([] if value is None else [value])])


@contextmanager
def errors_name_options() -> Iterator[None]:
    """Turn the ``ValueError`` of a settings class into an error that names the option in place of the setting."""
    try:
        yield
    except ValueError as error:
        name, _, problem = str(error).partition(":")
        raise RecipeError(f"command line: {option(name)}:{problem}") from None


def reading_of_parts(bad_objects: "BadObjects") -> "ReadingOptions":
    """How commands read files that they write parts of: crowds stay marked, so it does not matter what they are."""
    from composer_copypaste.data.annotation_json import ReadingOptions

    return ReadingOptions("ignore", bad_objects, option)


def program() -> str:
    """What a shell calls this program by: its name, or where that is not found, the path it was called by."""
    called = sys.argv[0]
    is_found = Path(called).name != "copypaste" or shutil.which("copypaste") == called
    return "copypaste" if is_found else called


def given_arguments(context: click.Context) -> list[str]:
    """The arguments of a command line as they could be given again, positional ones first."""
    positional: list[str] = []
    options: list[str] = []
    for parameter in context.command.params:
        value = context.params[str(parameter.name)]
        values = [*map(str, value)] if isinstance(value, tuple) else [str(value)]
        if isinstance(parameter, click.Argument):
            positional += values
        elif is_given(context, str(parameter.name)):
            is_flag = isinstance(parameter, click.Option) and parameter.is_flag
            options += [parameter.opts[0], *([] if is_flag else values)]
    return [*positional, *options]


def _append_command(what: str, meta: Mapping[str, Any]) -> str:
    """What happened, and the command that goes on."""
    command = meta.get(RESUME_COMMAND)
    return what if command is None else f"{what}; {meta.get(RESUME_HOW, 'to go on')}: {command}"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="copypaste")
def main() -> None:
    """Copy-paste augmentation and Mask R-CNN for MosaicML Composer.

    \b
    Start with data that is drawn here, nothing is downloaded:
      copypaste train quickstart
    """
    # torch reads this variable when it is imported, later. Threads then sleep while they wait for each other. Busy
    # waiting, the default, makes training four to five times as slow where other programs use the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = _format_warning
    warnings.filterwarnings("once", category=OldSettingWarning)  # by default Python hides such warnings
    if _is_own_process():
        log = logging.getLogger("composer_copypaste.functional.engines.compilation")
        log.setLevel(logging.INFO)
        log.addHandler(_LogOfLongWork())
