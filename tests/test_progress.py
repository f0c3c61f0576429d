from types import SimpleNamespace

import pytest
from log_files import LogFile, Terminal

from composer_copypaste import progress
from composer_copypaste.progress import Progress, with_progress


@pytest.fixture
def at(monkeypatch):
    """Sets the time, in seconds."""
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.value))
    return lambda seconds: setattr(now, "value", 100.0 + seconds)


def test_work_that_is_soon_done_writes_no_line_in_a_log(at):
    stream = LogFile()
    with Progress("drawing", "images", 20, stream=stream) as bar:
        at(2.9)
        bar.advance(20)
    assert stream.getvalue() == ""


def test_a_tenth_that_is_done_too_soon_is_told_when_the_time_has_come(at):
    stream = LogFile()
    bar = Progress("drawing", "images", 20, stream=stream)
    at(1)
    bar.advance(4)  # two tenths
    at(4)
    bar.advance(1)  # no further one
    bar.advance(1)  # the third, at once
    at(7)
    bar.advance(2)
    assert stream.getvalue().splitlines() == [
        "drawing 5/20 images, 00:12 left, 00:04 passed",
        "drawing 8/20 images, 00:10 left, 00:07 passed",
    ]


def test_the_time_left_counts_what_was_done_now_only(at):
    stream = LogFile()
    bar = Progress("train", "batches", 10, done=8, stream=stream)
    at(60)
    bar.advance(shown="loss 1.5")
    assert stream.getvalue() == "train 9/10 batches, 01:00 left, loss 1.5, 01:00 passed\n"


def test_work_of_unknown_length_tells_each_hundred(at):
    stream = LogFile()
    bar = Progress("previewing", "batches", None, stream=stream, seconds=0.0)
    bar.advance(99)
    bar.advance(2)
    assert stream.getvalue() == "previewing 101/? batches, 00:00 passed\n"


def test_a_terminal_has_a_bar(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    with Progress("drawing", "images", 4, stream=stream) as bar:
        bar.advance(4)
    assert "drawing 100%|" in stream.getvalue()
    assert "4/4 images, 00:00 left, 00:00 passed" in stream.getvalue()


def test_items_are_given_as_they_are(capsys):
    assert list(with_progress("abc", "drawing", "images", 3)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
