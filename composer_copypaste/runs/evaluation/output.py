"""The folder that an evaluation writes into: scores, matches and the page."""

from collections.abc import Iterator
from contextlib import contextmanager

from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.errors import OutputError
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.metrics.report import write_json
from composer_copypaste.output_folder import check_is_no_file
from composer_copypaste.runs.evaluation.findings import Findings
from composer_copypaste.runs.evaluation.page import Subject, evaluation_page
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.visualize.html import write_page


def begin_output(results: RunFolder) -> None:
    """Make the folder.

    Raises:
        OutputError: where it cannot be made, or holds an evaluation already.
    """
    check_output(results)
    try:
        results.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{results.root}: cannot be made: {error.strerror}; name another folder") from error


def check_output(results: RunFolder) -> None:
    """Raise ``OutputError`` where the path is no folder, or holds an evaluation already."""
    check_is_no_file(results.root, "results")
    for file in (results.evaluation, results.matches, results.predictions, results.report_page):
        if file.exists():
            raise OutputError(f"{file}: is there already; name another folder, or remove it")


def write_output(
    results: RunFolder, findings: Findings, matches: EvaluationMatches, subject: Subject, data: InstanceData | None
) -> None:
    """Write scores, matches and page.

    Raises:
        DataError: where an image cannot be read; nothing is written then.
        OutputError: where a file cannot be written.
    """
    page = evaluation_page(findings, subject, data)
    with write_errors_in_one_line(results):
        matches.save(results.matches)
        write_json(findings.report, results.evaluation)
        write_page(results.report_page, page)


@contextmanager
def write_errors_in_one_line(results: RunFolder) -> Iterator[None]:
    """Turn an ``OSError`` inside into an ``OutputError`` that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or results.root}: cannot be written: {error.strerror}; give another --output"
        ) from error
