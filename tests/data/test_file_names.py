"""File names that do not lead from the folder to an image."""

from pathlib import Path

import pytest

from composer_copypaste.data.annotation_json import CocoImage
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.image_files import in_folder
from composer_copypaste.errors import DataError, DataWarning


@pytest.fixture
def folder(tmp_path):
    """With files a.png and sub/b.png."""
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "pictures" / name).touch()
    return tmp_path / "pictures"


def found(folder, *names):
    images = [CocoImage(number, name, 8, 12) for number, name in enumerate(names)]
    annotations = CocoAnnotations(Path("annotations.json"), tuple(images), (), {})
    return [image.file_name for image in in_folder(annotations, folder).images]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/home/annotator/set/a.png", "a.png"),
        ("/home/annotator/sub/b.png", "sub/b.png"),
        ("C:\\data\\sub\\b.png", "sub/b.png"),
        ("\\\\server\\share\\a.png", "a.png"),
        ("file:///home/annotator/sub/b.png", "sub/b.png"),
        ("FILE://localhost/C:/data/%61.png", "a.png"),
        ("/data/local-files/?d=sub/%62.png", "sub/b.png"),
        ("../upload/a.png", "a.png"),
        ("../../images/sub/b.png", "sub/b.png"),
        ("assets/a.png", "a.png"),
        ("sub\\b.png", "sub/b.png"),
    ],
)
def test_the_longest_end_that_is_found_in_the_folder_is_taken_and_said(folder, name, expected):
    with pytest.warns(DataWarning, match="1 of 1 file names do not lead from") as said:
        assert found(folder, name) == [expected]
    assert len(said) == 1


def test_an_absolute_name_in_the_folder_itself_is_taken(folder):
    with pytest.warns(DataWarning):
        assert found(folder, str(folder / "sub" / "b.png")) == ["sub/b.png"]


def test_names_that_lead_to_images_stay_and_nothing_is_said(folder, recwarn):
    assert found(folder, "a.png", "sub/b.png", "missing.png") == ["a.png", "sub/b.png", "missing.png"]
    assert not recwarn.list


def test_a_relative_name_keeps_its_folder_where_others_are_found(folder):
    assert found(folder, "a.png", "other/b.png") == ["a.png", "other/b.png"]


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.png", "C:/gone.png", "file:///gone.png", "/" + 300 * "x", "a/../../c.png", "a\0.png"],
)
def test_a_name_that_leads_out_of_the_folder_and_nowhere_is_refused(folder, name):
    with pytest.raises(DataError, match="leaves the image folder, and no end of it is found there"):
        found(folder, name)


def test_no_name_leads_out_of_the_folder(folder):
    (folder.parent / "outside.png").touch()
    with pytest.raises(DataError, match="leaves the image folder"):
        found(folder, str(folder.parent / "outside.png"))


@pytest.mark.parametrize("name", ["https://host/a.png", "s3://bucket/a.png", "data:image/png;base64,iVBO"])
def test_a_url_is_named(folder, name):
    with pytest.raises(DataError, match="is a URL; fetch the images into a folder"):
        found(folder, name)


def test_different_names_that_lead_to_one_file_are_refused(folder):
    with pytest.raises(DataError, match=r'a\.png is all that is found of 2 different file names: "/x/a\.png", "/y/a'):
        found(folder, "/x/a.png", "/y/a.png")


def test_a_zip_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK\x03\x04...")
    with pytest.raises(DataError, match="expected a folder of images, got a zip archive"):
        found(tmp_path / "images.zip", "/home/a.png")
