import json
import shutil

import pytest
from image_sets import write_set

from composer_copypaste.data.leaks import find_leaks
from composer_copypaste.errors import DataError, UserError


@pytest.fixture
def sets(tmp_path):
    train = write_set(tmp_path, "train", {"a.png": b"sky", "b.png": b"sea", "c.png": b"hill"}, slide=[1, 2, 2])
    val = write_set(tmp_path, "val", {"a.png": b"fog", "x.png": b"sea", "y.png": b"sea"}, slide=["1", 3, 2])
    return [train, val], [tmp_path / "train", tmp_path / "val"]


def test_an_image_is_found_under_any_name_and_equal_names_are_no_leak(sets):
    [train, val], folders = sets
    [leak] = find_leaks([train, val], images=folders)
    assert leak.kind == "equal files"
    assert leak.images == ((train, ("b.png",)), (val, ("x.png", "y.png")))
    assert str(leak) == f"equal files  {train}: b.png = {val}: x.png, y.png"


def test_a_group_of_two_files_is_found(sets):
    [train, val], _ = sets
    [leak] = find_leaks([train, val], group="slide")
    assert (leak.kind, leak.value) == ("group", "2")  # 1 is a number here and a text there
    assert leak.images == ((train, ("b.png", "c.png")), (val, ("y.png",)))


def test_files_of_one_folder_share_what_both_list(tmp_path, sets):
    [train, _], folders = sets
    content = json.loads(train.read_text())
    part = tmp_path / "part.json"
    part.write_text(json.dumps(content | {"images": content["images"][2:], "annotations": []}))
    [leak] = find_leaks([train, part], images=folders[:1])
    assert leak.images == ((train, ("c.png",)), (part, ("c.png",)))


def test_objects_are_not_looked_at(sets):
    [train, val], folders = sets
    train.write_text(train.read_text().replace('"area": 16', '"area": "large"'))
    assert len(find_leaks([train, val], images=folders)) == 1


def test_the_file_of_a_test_set_may_lack_the_list_of_annotations(sets):
    [train, val], folders = sets
    content = json.loads(val.read_text())
    val.write_text(json.dumps({key: value for key, value in content.items() if key != "annotations"}))
    assert len(find_leaks([train, val], images=folders)) == 1


def test_there_must_be_something_to_compare(sets):
    paths, folders = sets
    for annotations, images in ((paths, []), (paths[:1], folders[:1])):
        with pytest.raises(
            UserError, match=r"^expected two annotation files or more, and the folders of their images, or"
        ):
            find_leaks(annotations, images=images)
    with pytest.raises(UserError, match=r"^images: expected one folder for all files, or one for each of 2, got 3$"):
        find_leaks(paths, images=[*folders, folders[0]])


def test_a_broken_file_is_named(sets):
    [train, val], folders = sets
    val.write_text("[]")
    with pytest.raises(DataError, match=r"val.json: expected an object with the lists images, annotations, categories"):
        find_leaks([train, val], images=folders)


def test_a_file_given_twice_is_named_unless_its_images_are_in_two_folders(sets, tmp_path):
    (train, _), folders = sets
    (tmp_path / "link.json").symlink_to(train)
    for again in (train, tmp_path / "link.json"):
        with pytest.raises(
            UserError, match=r"\.json: the same file is given twice.*; name different files, or this"
        ) as error:
            find_leaks([train, again], images=folders[:1])
        assert "\n" not in str(error.value)
    shutil.copytree(folders[0], tmp_path / "copy")
    assert find_leaks([train, train], images=[folders[0], tmp_path / "copy"])
