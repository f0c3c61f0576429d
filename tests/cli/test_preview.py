"""``copypaste preview`` as its users meet it."""

import pytest
from click.testing import CliRunner
from shapes_recipe import tiny

from composer_copypaste.cli import main
from composer_copypaste.runs.preview import page as preview_page


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(preview_page, "_plots", lambda variants: [])
    monkeypatch.setattr(preview_page, "IMAGE_SIZE", 96)


def preview(*arguments):
    return CliRunner().invoke(main, ["preview", *map(str, arguments)])


def test_it_prints_what_was_measured_and_where_the_page_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = preview(*tiny(tmp_path, "data.workers=0"), "--compare", "p=1 rotation=30", "--batches", 2, "--images", 1)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert " ".join(lines[:2]).split() == ["recipe", "p=1", "rotation=30"]
    assert [line.split() for line in lines if line.startswith("images  ")] == [["images", "8", "8"]]
    assert lines[-1] == "previews/quickstart/preview.html"
    written = {path.name for path in (tmp_path / "previews" / "quickstart").iterdir()}
    assert written == {"preview.html", "sheet_1.png", "sheet_2.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compare", "p=2"], "error: copy_paste.p: expected at most 1, got 2 (command line)"),
        (["copy_paste.q=2"], "error: copy_paste.q: unknown key"),
        (["--images", "0"], "error: command line: invalid value for '--images': 0 is not in the range 1<=x<=64."),
        (["data.shapes=null"], "error: data.train: not given; "),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    result = preview(*tiny(tmp_path), *arguments, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.doc").write_text("mine")
    result = preview(*tiny(tmp_path), "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {tmp_path / 'out'}: holds thesis.doc, which is no preview's; name another folder with --output\n"
    )


def test_a_new_folder_is_not_called_like_an_image(tmp_path):
    result = preview(*tiny(tmp_path), "--output", tmp_path / "a.png")
    assert result.stderr == (
        f"error: {tmp_path / 'a.png'}: expected a folder for the preview, which holds several files, got a name that "
        f"ends in .png; give a name without it, such as {tmp_path / 'a'}\n"
    )
    assert not (tmp_path / "a.png").exists()
