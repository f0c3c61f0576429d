import json

import pytest
from coco_files import annotation
from image_sets import write_set
from pycocotools.coco import COCO

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.merge import merge_annotations
from composer_copypaste.errors import DataError, DataWarning, OutputError, UserError

SECOND = {"bbox": [5, 1, 4, 4], "segmentation": [[5, 1, 9, 1, 9, 5, 5, 5]]}
"""Another object than that of ``annotation``."""


@pytest.fixture
def write(tmp_path):
    """Writes a file of images (id and name), annotations (id, image and category) and categories (id and name)."""

    def write(name, images, annotations, categories, **others):
        content = {
            "images": [{"id": id_, "file_name": file, "height": 8, "width": 12} for id_, file in images],
            "annotations": [annotation(id_, image_id=image, category_id=c) for id_, image, c in annotations],
            "categories": [{"id": id_, "name": category} for id_, category in categories],
        }
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content | others))
        return path

    return write


def merged(tmp_path, *files, **settings):
    result = merge_annotations(files, tmp_path / "merged.json", **settings)
    assert json.loads((tmp_path / "merged.json").read_text()) == result.content
    return result


def triples(content):
    return [(a["id"], a["image_id"], a["category_id"]) for a in content["annotations"]]


def pairs(content, kind, key):
    return [(entry["id"], entry[key]) for entry in content[kind]]


def test_ids_stay_where_they_are_free_and_categories_are_matched_by_name(tmp_path, write):
    one = write("one", [(1, "a"), (5, "b")], [(10, 1, 3), (12, 5, 4)], [(3, "cat"), (4, "dog")])
    other = write("other", [(5, "c"), (2, "d")], [(10, 5, 3), (11, 2, 7)], [(3, "dog"), (7, "owl")])
    result = merged(tmp_path, one, other)
    assert pairs(result.content, "images", "file_name") == [(1, "a"), (5, "b"), (6, "c"), (2, "d")]
    assert pairs(result.content, "categories", "name") == [(3, "cat"), (4, "dog"), (7, "owl")]
    assert triples(result.content) == [(10, 1, 3), (12, 5, 4), (13, 6, 4), (11, 2, 7)]
    assert dict(result.changed_ids) == {"categories": 0, "licenses": 0, "images": 1, "annotations": 1}


def test_a_new_id_is_that_of_no_file(tmp_path, write):
    one, other = (
        write(name, [(1, name), (100 * n, f"{name}2")], [(1, 1, 3)], [(3, "cat")]) for n, name in ((1, "a"), (2, "b"))
    )
    assert [id_ for id_, _ in pairs(merged(tmp_path, one, other).content, "images", "file_name")] == [1, 100, 201, 200]


def test_a_category_whose_id_is_taken_gets_another(tmp_path, write):
    one = write("one", [(1, "a")], [(1, 1, 3)], [(3, "cat")])
    other = write("other", [(2, "b")], [(2, 2, 3)], [(3, "dog"), (1, "cat")])
    content = merged(tmp_path, one, other).content
    assert pairs(content, "categories", "name") == [(3, "cat"), (4, "dog")]
    assert triples(content) == [(1, 1, 3), (2, 2, 4)]


def test_renumbered_ids_count_from_one(tmp_path, write):
    one = write("one", [(0, "a"), (50, "b")], [(10, 50, 3), (12, 0, 40)], [(3, "cat"), (40, "dog")])
    other = write("other", [(9, "c")], [(10, 9, 0)], [(0, "owl")])
    content = merged(tmp_path, one, other, renumber=True).content
    assert pairs(content, "images", "file_name") == [(1, "a"), (2, "b"), (3, "c")]
    assert pairs(content, "categories", "name") == [(1, "cat"), (2, "dog"), (3, "owl")]
    assert triples(content) == [(1, 2, 1), (2, 1, 2), (3, 3, 3)]


def test_renamed_categories_become_one(tmp_path, write):
    one = write("one", [(1, "a")], [(1, 1, 3), (2, 1, 4)], [(3, "car"), (4, "truck"), (5, "sign")])
    content = merged(tmp_path, one, rename={"car": "vehicle", "truck": "vehicle"}).content
    assert pairs(content, "categories", "name") == [(3, "vehicle"), (5, "sign")]
    assert triples(content) == [(1, 1, 3), (2, 1, 3)]


def test_names_can_be_exchanged(tmp_path, write):
    one = write("one", [(1, "a")], [(1, 1, 3), (2, 1, 4)], [(3, "left"), (4, "right")])
    content = merged(tmp_path, one, rename={"left": "right", "right": "left"}).content
    assert pairs(content, "categories", "name") == [(3, "right"), (4, "left")]


def test_an_unknown_category_is_not_renamed(tmp_path, write):
    one = write("one", [(1, "a")], [(1, 1, 3)], [(3, "car")])
    with pytest.raises(DataError, match=r'one.json: has no category "truck"; its categories are "car"$'):
        merge_annotations([one], tmp_path / "merged.json", rename={"truck": "vehicle"})


def test_keys_of_other_tools_are_kept(tmp_path, write):
    one = write("one", [(1, "a")], [(1, 1, 3)], [(3, "cat")], info={"year": 1}, tags=[1])
    content = json.loads(one.read_text())
    content["images"][0]["slide"] = "x"
    content["annotations"][0]["score"] = 0.5
    content["categories"][0]["color"] = [1, 2, 3]
    one.write_text(json.dumps(content))
    other = write("other", [(2, "b")], [(2, 2, 3)], [(3, "cat")], info={"year": 2}, tags=[2], source="lab")
    with pytest.warns(DataWarning) as warned:
        merged_content = merged(tmp_path, one, other).content
    [warning] = warned  # each file has other information, of which none is needed
    assert str(warning.message) == f'{other}: "tags" is not that of an earlier file, whose value is kept'
    assert merged_content["images"][0] == content["images"][0]
    assert merged_content["annotations"][0] == content["annotations"][0]
    assert merged_content["categories"] == content["categories"]
    assert (merged_content["info"], merged_content["tags"], merged_content["source"]) == ({"year": 1}, [1], "lab")


def test_licenses_are_those_of_both_files(tmp_path, write):
    licenses = [
        [{"id": 1, "name": "CC0"}, {"id": 2, "name": "CC BY"}],
        [{"id": 1, "name": "CC BY"}, {"id": 2, "name": "MIT"}],
    ]
    files = []
    for number, of_file in enumerate(licenses):
        path = write(
            str(number), [(2 * number + i, f"{number}{i}") for i in (1, 2)], [], [(3, "cat")], licenses=of_file
        )
        content = json.loads(path.read_text())
        for image, license_ in zip(content["images"], of_file, strict=True):
            image["license"] = license_["id"]
        path.write_text(json.dumps(content))
        files.append(path)
    content = merged(tmp_path, *files).content
    names = dict(pairs(content, "licenses", "name"))
    assert sorted(names.values()) == ["CC BY", "CC0", "MIT"]
    assert [names[image["license"]] for image in content["images"]] == ["CC0", "CC BY", "CC BY", "MIT"]


def test_file_names_become_relative_to_the_folder_that_holds_all(tmp_path):
    one = write_set(tmp_path / "photos", "one", {"1.png": b"sky"})
    other = write_set(tmp_path / "photos" / "more", "other", {"1.png": b"sea"})
    folders = [tmp_path / "photos" / "one", tmp_path / "photos" / "more" / "other"]
    result = merged(tmp_path, one, other, images=folders)
    assert [image["file_name"] for image in result.content["images"]] == ["one/1.png", "more/other/1.png"]
    assert result.images == tmp_path / "photos"
    assert [(result.images / image["file_name"]).read_bytes() for image in result.content["images"]] == [b"sky", b"sea"]


def test_file_names_of_one_folder_stay(tmp_path, write):
    one, other = write("one", [(1, "a")], [], [(3, "cat")]), write("other", [(1, "b")], [], [(3, "cat")])
    (tmp_path / "a").write_bytes(b"sky")
    (tmp_path / "b").write_bytes(b"sea")
    for settings in ({}, {"images": [tmp_path]}):
        content = merged(tmp_path, one, other, **settings).content
        assert [image["file_name"] for image in content["images"]] == ["a", "b"]


def test_names_that_clash_need_folders(tmp_path, write):
    one, other = (write(name, [(1, "a.png")], [], [(3, "cat")]) for name in ("one", "other"))
    with pytest.raises(DataError, match=f'^1 file name of two files: "a.png" of {other} is in {one} too. Give the'):
        merge_annotations([one, other], tmp_path / "merged.json")


@pytest.fixture
def doubled(tmp_path):
    """Two files of folders of their own that share an image under two names, with another object in the second."""
    one = write_set(tmp_path, "one", {"a.png": b"sky", "b.png": b"sea"})
    other = write_set(tmp_path, "other", {"c.png": b"hill", "d.png": b"sky"})
    content = json.loads(other.read_text())
    content["annotations"].append(annotation(3, image_id=2, **SECOND))
    other.write_text(json.dumps(content))
    return [one, other], [tmp_path / "one", tmp_path / "other"]


def test_an_image_of_two_files_is_refused_and_named(tmp_path, doubled):
    files, images = doubled
    with pytest.raises(DataError) as caught:
        merge_annotations(files, tmp_path / "merged.json", images=images)
    assert str(caught.value) == (
        "1 image of an earlier file is in a later one too, byte by byte: one/a.png = other/d.png. "
        'duplicates="first" leaves the later ones out, duplicates="join" gives their objects to the earlier ones'
    )
    assert not (tmp_path / "merged.json").exists()


def test_the_first_files_image_can_count(tmp_path, doubled):
    files, images = doubled
    result = merged(tmp_path, *files, images=images, duplicates="first")
    assert pairs(result.content, "images", "file_name") == [(1, "one/a.png"), (2, "one/b.png"), (3, "other/c.png")]
    assert triples(result.content) == [(1, 1, 5), (2, 2, 5), (3, 3, 5)]
    assert result.duplicates == 1


def test_objects_of_both_files_can_be_joined_each_once(tmp_path, doubled):
    files, images = doubled
    with pytest.warns(UserWarning, match=r"left out 1 bad object: annotation 5 \(image 1\): repeats annotation 1"):
        result = merged(tmp_path, *files, images=images, duplicates="join")
    assert [image["file_name"] for image in result.content["images"]] == ["one/a.png", "one/b.png", "other/c.png"]
    assert triples(result.content) == [(1, 1, 5), (2, 2, 5), (4, 3, 5), (3, 1, 5)]
    assert result.content["annotations"][3]["bbox"] == SECOND["bbox"]


def test_an_image_that_one_file_has_twice_stays(tmp_path):
    one = write_set(tmp_path, "one", {"a.png": b"sky", "b.png": b"sky"})
    other = write_set(tmp_path, "other", {"a.png": b"hill"})
    result = merged(tmp_path, one, other, images=[tmp_path / "one", tmp_path / "other"])
    assert [image["file_name"] for image in result.content["images"]] == ["one/a.png", "one/b.png", "other/a.png"]


def test_an_image_of_two_sizes_is_not_joined(tmp_path, doubled):
    files, images = doubled
    content = json.loads(files[1].read_text())
    content["images"][1]["width"] = 13
    files[1].write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"other.json: image 2 is 13 x 8 \(width x height\), but 12 x 8 in .*one.json$"):
        merge_annotations(files, tmp_path / "merged.json", images=images, duplicates="join")


def test_annotations_without_ids_get_some(tmp_path, write):
    one, other = (write(name, [(n, name)], [(1, n, 3)], [(3, "cat")]) for n, name in ((1, "one"), (2, "other")))
    for path in (one, other):
        content = json.loads(path.read_text())
        del content["annotations"][0]["id"]
        path.write_text(json.dumps(content))
    merge_annotations([one, other], tmp_path / "merged.json")
    assert sorted(COCO(tmp_path / "merged.json").anns) == [1, 2]


def test_what_is_merged_is_read_without_a_warning(tmp_path, doubled):
    files, images = doubled
    merge_annotations(files, tmp_path / "merged.json", images=images, duplicates="first", renumber=True)
    assert CocoAnnotations.load(tmp_path / "merged.json").num_objects == 3


def test_another_file_is_not_overwritten(tmp_path, write):
    one = write("one", [(1, "a")], [(1, 1, 3)], [(3, "cat")])
    for _ in range(2):
        merge_annotations([one], tmp_path / "merged.json")
    with pytest.raises(OutputError, match=r"merged.json: is there already, and holds something else"):
        merge_annotations([one], tmp_path / "merged.json", rename={"cat": "dog"})


def test_a_file_is_not_merged_with_itself(tmp_path, write):
    file = write("a", [(1, "a.png")], [(1, 1, 1)], [(1, "cat")])
    with pytest.raises(
        UserError, match=r"a\.json: the same file is given twice; name different files, or this one once$"
    ):
        merged(tmp_path, file, file)
    assert not (tmp_path / "merged.json").exists()
