import pytest
from image_sets import write_set

from composer_copypaste.data import image_groups
from composer_copypaste.data.annotation_file import AnnotationFile
from composer_copypaste.data.image_groups import equal_content, images_to_units, locate_images
from composer_copypaste.errors import DataError


def located(tmp_path, name, files):
    file = AnnotationFile.read(write_set(tmp_path, name, files))
    return locate_images(file.annotations, tmp_path / name)


def test_images_of_any_common_group_are_one_unit():
    slides = {1: "a", 2: "a", 3: "b"}
    patients = {3: "x", 4: "x", 2: "x"}
    assert images_to_units([5, 4, 3, 2, 1], [slides, patients]) == [(5,), (4, 3, 2, 1)]
    assert images_to_units([1, 2], []) == [(1,), (2,)]


def test_equal_files_are_found_under_any_name_and_in_another_set(tmp_path):
    train = located(tmp_path, "train", {"a.png": b"sky", "b.png": b"sea", "c.png": b"lake"})
    val = located(tmp_path, "val", {"x.jpg": b"lake", "y.jpg": b"sea", "z.jpg": b"meadow"})
    one, other = equal_content([train, val])
    assert one[3] == other[1]
    assert one[2] == other[2]
    assert len({*one.values(), *other.values()}) == 4  # the lake and the sea once


def test_a_file_that_two_images_name_is_equal_to_itself(tmp_path):
    with pytest.warns(UserWarning, match="listed more than once"):
        train = located(tmp_path, "train", {"a.png": b"sky", "./a.png": b"sky", "c.png": b"lake"})
    [content] = equal_content([train])
    assert content[1] == content[2] != content[3]


def test_a_folder_under_two_names_has_the_same_files(tmp_path):
    train = located(tmp_path, "train", {"a.png": b"sky", "b.png": b"hill"})
    (tmp_path / "link").symlink_to(tmp_path / "train")
    linked = locate_images(AnnotationFile.read(tmp_path / "train.json").annotations, tmp_path / "link")
    one, other = equal_content([train, linked])
    assert one == other


def test_only_files_of_equal_size_are_read(tmp_path, monkeypatch):
    images = located(tmp_path, "train", {"a.png": b"sky", "b.png": b"sea", "c.png": b"meadow"})
    read = []
    digest = image_groups.hashlib.file_digest
    monkeypatch.setattr(
        image_groups.hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind)
    )
    equal_content([images])
    assert sorted(read) == [str(tmp_path / "train" / name) for name in ("a.png", "b.png")]


def test_of_several_sets_only_files_are_read_whose_size_another_set_has(tmp_path, monkeypatch):
    one = located(tmp_path, "one", {"a.png": b"sky", "b.png": b"sea", "c.png": b"meadow"})
    other = located(tmp_path, "other", {"d.png": b"forest", "e.png": b"lake", "f.png": b"hill"})
    read = []
    digest = image_groups.hashlib.file_digest
    monkeypatch.setattr(
        image_groups.hashlib, "file_digest", lambda file, kind: read.append(file.name) or digest(file, kind)
    )
    equal_content([one, other])
    assert sorted(read) == [str(tmp_path / "one" / "c.png"), str(tmp_path / "other" / "d.png")]


def test_missing_images_and_folders_are_named(tmp_path):
    file = AnnotationFile.read(write_set(tmp_path, "train", {"a.png": b"sky", "b.png": b"sea"}))
    (tmp_path / "train" / "b.png").unlink()
    with pytest.raises(DataError, match=r"train: b.png \(image 2\): the file is missing$"):
        locate_images(file.annotations, tmp_path / "train")
    with pytest.raises(DataError, match=r"none: there is no such folder of images$"):
        locate_images(file.annotations, tmp_path / "none")
