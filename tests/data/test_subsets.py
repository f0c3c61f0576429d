import json

import pytest
from coco_files import annotation
from pycocotools.coco import COCO

from composer_copypaste.data.annotation_file import AnnotationFile
from composer_copypaste.data.annotation_json import ReadingOptions
from composer_copypaste.data.splits import draw_fractions
from composer_copypaste.data.subsets import read_image_list, subset_annotations, write_subset
from composer_copypaste.errors import DataError, OutputError

CONTENT = {
    "info": {"description": "Äpfel", "contributor": None},
    "licenses": [{"id": 1, "name": "CC0"}],
    "images": [
        {"id": 9, "file_name": "9.png", "height": 8, "width": 12, "slide": "a", "license": 1},
        {"id": 7, "file_name": "7.png", "height": 8, "width": 12, "slide": "b"},
        {"id": 8, "file_name": "8.png", "height": 8, "width": 12, "slide": "b"},
    ],
    "annotations": [
        annotation(3, image_id=8, attributes={"occluded": True}),
        annotation(1, image_id=7, score=0.25),
        annotation(2, image_id=9, iscrowd=1),
    ],
    "categories": [{"id": 5, "name": "nut", "supercategory": "food"}, {"id": 3, "name": "fig", "color": [1, 2, 3]}],
    "videos": [],
}


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(CONTENT))
    return path


def test_a_subset_has_its_images_and_annotations_and_all_else_as_it_was(whole, tmp_path):
    write_subset(whole, [8, 9], tmp_path / "part.json")
    images, annotations = CONTENT["images"], CONTENT["annotations"]
    part = json.loads((tmp_path / "part.json").read_text())
    assert part == CONTENT | {"images": [images[0], images[2]], "annotations": [annotations[0], annotations[2]]}


def test_the_same_input_gives_the_same_bytes(whole, tmp_path):
    for ids, name in (([8, 9], "one"), ((9, 8), "other")):
        write_subset(whole, ids, tmp_path / f"{name}.json")
    write_subset(AnnotationFile.read(whole), {8, 9}, tmp_path / "third.json")
    assert len({(tmp_path / f"{name}.json").read_bytes() for name in ("one", "other", "third")}) == 1


def test_a_subset_of_all_images_is_the_same_data(whole, tmp_path):
    write_subset(whole, [7, 8, 9], tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == CONTENT


def test_a_file_that_holds_the_subset_already_is_left_alone(whole, tmp_path):
    output = tmp_path / "new" / "part.json"
    write_subset(whole, [7], output)
    before = output.stat()
    write_subset(whole, [7], output)
    assert (output.stat().st_mtime_ns, output.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


@pytest.mark.parametrize("change", [lambda text: text + "\n", lambda text: text[:-1], lambda text: "{}"])
def test_another_file_is_not_overwritten(whole, tmp_path, change):
    output = tmp_path / "part.json"
    write_subset(whole, [7], output)
    output.write_text(change(output.read_text()))
    before = output.read_text()
    with pytest.raises(OutputError, match=f"^{output}: is there already, and holds something else: remove it, or name"):
        write_subset(whole, [7], output)
    assert output.read_text() == before


def test_an_unknown_image_is_named(whole, tmp_path):
    with pytest.raises(DataError, match=r"whole.json: has no 2 images with the ids 1, 70$"):
        write_subset(whole, [70, 7, 1], tmp_path / "part.json")
    assert not (tmp_path / "part.json").exists()


def test_a_wrong_entry_of_a_text_file_is_named_with_its_line(named, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("7\n\nthree\n")
    with pytest.raises(DataError) as caught:
        subset_annotations(named, tmp_path / "part.json", images=path)
    assert str(caught.value) == f'{named}: {path}:3: no image has the id or file name "three"'


def test_a_broken_file_is_named(whole, tmp_path):
    whole.write_text(json.dumps(CONTENT | {"annotations": [annotation(4, image_id=7, segmentation=[[1, 2, 3, 4]])]}))
    with pytest.raises(DataError, match=r"whole.json: annotation 4 \(image 7\): polygon has 4 numbers, needs at least"):
        subset_annotations(whole, tmp_path / "part.json")
    write_subset(whole, [7], tmp_path / "part.json")  # of images that have been checked


@pytest.mark.parametrize("entry", [annotation(4, image_id=70), "none", annotation(4, image_id=None)])
def test_an_annotation_of_no_image_is_named(whole, tmp_path, entry):
    whole.write_text(json.dumps(CONTENT | {"annotations": [*CONTENT["annotations"], entry]}))
    with pytest.raises(DataError, match=r"whole.json: annotation (4|number 4 in the file)"):
        write_subset(whole, [7], tmp_path / "part.json")


def test_bad_objects_can_be_left_out(whole):
    bad = annotation(4, image_id=7, segmentation=[[1, 2, 3, 4]])
    whole.write_text(json.dumps(CONTENT | {"annotations": [*CONTENT["annotations"], bad]}))
    with pytest.warns(UserWarning, match="left out 1 bad object"):
        file = AnnotationFile.read(whole, ReadingOptions("ignore", "leave_out"))
    assert file.content == CONTENT


def test_a_file_without_annotations_has_subsets(whole, tmp_path):
    whole.write_text(json.dumps(CONTENT | {"annotations": []}))
    write_subset(whole, [7], tmp_path / "part.json")
    assert list(COCO(tmp_path / "part.json").imgs) == [7]


@pytest.fixture
def named(tmp_path):
    """Three images in folders; category nut in the first two, fig in the last two."""
    names = ["a/one.png", "a/two.jpg", "b/two.jpg"]
    content = CONTENT | {
        "images": [entry | {"file_name": name} for entry, name in zip(CONTENT["images"], names, strict=True)],
        "annotations": [
            annotation(1, image_id=9),
            annotation(2, image_id=7),
            annotation(3, image_id=7, category_id=3, bbox=[5, 1, 4, 4], segmentation=[[5, 1, 9, 1, 9, 5, 5, 5]]),
            annotation(4, image_id=8, category_id=3),
        ],
    }
    path = tmp_path / "named.json"
    path.write_text(json.dumps(content))
    return path


def ids(file, kind="images"):
    return [entry["id"] for entry in file.content[kind]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["9"], [9]),
        ([9, 8], [9, 8]),
        (["a/two.jpg"], [7]),
        (["one.png"], [9]),
        (["one"], [9]),
        (["a/two", "8"], [7, 8]),
    ],
)
def test_images_are_given_by_id_or_by_name(named, tmp_path, given, expected):
    file = subset_annotations(named, tmp_path / "part.json", images=given)
    assert ids(file) == expected
    assert json.loads((tmp_path / "part.json").read_text()) == file.content


def test_images_that_cannot_be_told_are_listed(named, tmp_path):
    with pytest.raises(DataError) as caught:
        subset_annotations(named, tmp_path / "part.json", images=["two.jpg", "three", "10"])
    assert str(caught.value).splitlines() == [
        f"{named}: 3 problems",
        '  "two.jpg" is the name of several images: 7, 8; give ids',
        '  no image has the id or file name "three"',
        '  no image has the id or file name "10"',
    ]
    assert not (tmp_path / "part.json").exists()


def test_a_subset_of_categories_has_the_images_that_show_them(named, tmp_path):
    file = subset_annotations(named, tmp_path / "part.json", categories=["nut"])
    assert (ids(file), ids(file, "annotations"), ids(file, "categories")) == ([9, 7], [1, 2], [5])
    assert file.content["categories"] == [CONTENT["categories"][0]]


def test_empty_images_can_be_kept(named, tmp_path):
    file = subset_annotations(named, tmp_path / "part.json", categories=["fig"], empty_images=True)
    assert (ids(file), ids(file, "annotations")) == ([9, 7, 8], [3, 4])


def test_a_fraction_is_of_what_the_other_choices_leave(named, tmp_path):
    drawn = set()
    for seed in range(8):
        file = subset_annotations(named, tmp_path / f"{seed}.json", categories=["fig"], fraction=0.5, seed=seed)
        drawn |= {tuple(ids(file))}
    assert drawn == {(7,), (8,)}


def test_a_fraction_is_that_of_draw_fractions(named, tmp_path):
    file = AnnotationFile.read(named)
    [drawn] = draw_fractions(file.annotations, [0.67], seed=3).values()
    assert ids(subset_annotations(file, tmp_path / "part.json", fraction=0.67, seed=3)) == list(drawn)


def test_a_category_without_objects_leaves_no_image(whole, tmp_path):
    with pytest.raises(DataError, match=r"whole.json: no image is left$"):
        subset_annotations(whole, tmp_path / "part.json", categories=["fig"])


def test_an_unknown_category_is_named(whole, tmp_path):
    with pytest.raises(DataError, match=r'whole.json: has no category "nuts"; its categories are "fig", "nut"$'):
        subset_annotations(whole, tmp_path / "part.json", categories=["nuts"])


def test_a_list_of_images_is_a_text_file(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf7\r\n\r\n 2007_000032 \n")
    assert read_image_list(path) == {1: "7", 3: "2007_000032"}
    with pytest.raises(DataError, match=r"none.txt: no list of images: No such file or directory$"):
        read_image_list(tmp_path / "none.txt")
    path.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=r"ids.txt: expected a text file with an id or a file name in each line$"):
        read_image_list(path)
