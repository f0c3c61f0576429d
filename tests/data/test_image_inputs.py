import json

import numpy as np
import pytest
from PIL import Image

from composer_copypaste.data.image_inputs import find_images, with_headers
from composer_copypaste.errors import DataError, DataWarning, RecipeError
from composer_copypaste.settings import ImageSettings


@pytest.fixture
def photos(tmp_path):
    """photos/b.png, a.jpg, deeper/c.tif, and other files."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".thumbnails").mkdir()
    for name in ("b.png", "a.jpg", "deeper/c.tif", ".thumbnails/a.png", ".hidden.png"):
        Image.new("RGB", (12, 8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def names(inputs):
    return [image.file_name for image in inputs.images]


def test_a_folder_gives_its_images_and_those_below_it_but_no_hidden_ones(photos):
    inputs = find_images([photos])
    assert names(inputs) == ["a.jpg", "b.png", "deeper/c.tif"]
    assert [image.id for image in inputs.images] == [1, 2, 3]


def test_a_pattern_gives_the_images_that_match_it(photos):
    assert names(find_images([photos / "*.jpg"])) == ["a.jpg"]
    assert names(find_images([photos / "[a-b]*"])) == ["a.jpg", "b.png"]
    assert names(find_images([photos / "**" / "*"])) == ["a.jpg", "b.png", "deeper/c.tif"]
    assert names(find_images([photos / "deep*"])) == ["c.tif"]  # a folder that matches


def test_files_are_taken_in_their_order_each_once(photos):
    assert names(find_images([photos / "b.png", photos, f"{photos}/../photos/a.jpg"])) == [
        "b.png",
        "a.jpg",
        "deeper/c.tif",
    ]


def test_names_are_relative_to_the_folder_of_all_images(photos):
    assert names(find_images([photos / "deeper" / "c.tif"])) == ["c.tif"]
    assert names(find_images([photos / "deeper" / "c.tif", photos / "b.png"])) == ["deeper/c.tif", "b.png"]


def test_a_folder_that_is_written_to_does_not_count(photos):
    assert names(find_images([photos], without=photos / "deeper")) == ["a.jpg", "b.png"]


def test_nothing_found_is_refused(photos):
    with pytest.raises(DataError, match=r"nowhere\.png: there is no such file or folder"):
        find_images([photos, photos / "nowhere.png"])
    with pytest.raises(DataError, match=r"\*\.gif: there is no image"):
        find_images([photos / "*.gif"])


def test_sizes_and_problems_come_from_the_headers(photos):
    (photos / "b.png").write_bytes(b"broken")
    images = with_headers(find_images([photos]), ImageSettings()).images
    assert [image.size for image in images] == [(8, 12), None, (8, 12)]
    assert [image.problem for image in images] == [
        None,
        "the image cannot be decoded: not an image in a known format",
        None,
    ]


def test_an_image_that_viewers_turn_by_a_quarter_has_the_size_that_they_show(photos):
    image = Image.fromarray(np.arange(12 * 8 * 3, dtype=np.uint8).reshape(8, 12, 3))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(photos / "a.jpg", exif=exif)
    assert with_headers(find_images([photos / "a.jpg"]), ImageSettings()).images[0].size == (12, 8)


def test_an_image_that_is_upside_down_is_warned_of(photos):
    image = Image.new("RGB", (12, 8))
    exif = image.getexif()
    exif[0x0112] = 3
    image.save(photos / "a.jpg", exif=exif)
    with pytest.warns(DataWarning, match=r'"a\.jpg": an orientation tag turns or mirrors the image'):
        with_headers(find_images([photos]), ImageSettings())


def test_twelve_bits_in_sixteen_are_refused_until_the_range_is_given(photos):
    for number in range(2):
        Image.fromarray(np.full((8, 12), 4000, np.uint16)).save(photos / f"{number}.png")
    inputs = find_images([photos / "?.png"])
    with pytest.raises(DataError, match=r"0\.png, 1\.png have more than 8 bits, but the largest value .* is 4000"):
        with_headers(inputs, ImageSettings())
    assert with_headers(inputs, ImageSettings(value_range=(0, 4095))).images[0].problem is None


# ---- COCO files


def listed(photos, *names, **changes):
    images = [{"id": 7 * n, "file_name": name, "height": 8, "width": 12} for n, name in enumerate(names, start=1)]
    path = photos.parent / "test.json"
    path.write_text(json.dumps({"images": images} | changes))
    return path


def test_a_test_set_gives_its_images_with_their_ids_and_sizes(photos):
    path = listed(photos, "b.png", "deeper/c.tif", categories=[{"id": 5, "name": "nut"}, {"id": 3, "name": "fig"}])
    inputs = find_images([path], folder=photos)
    assert [(image.id, image.file_name, image.size) for image in inputs.images] == [
        (7, "b.png", (8, 12)),
        (14, "deeper/c.tif", (8, 12)),
    ]
    assert [category.name for category in inputs.categories] == ["fig", "nut"]


def test_categories_may_be_missing_and_annotations_may_be_anything(photos):
    inputs = find_images([listed(photos, "b.png", annotations=[{"caption": "a nut"}])], folder=photos)
    assert (names(inputs), inputs.categories) == (["b.png"], ())
    assert "annotations" not in inputs.content


def test_a_missing_file_is_a_problem_of_that_image_alone(photos):
    images = with_headers(find_images([listed(photos, "b.png", "gone.png")], folder=photos), ImageSettings()).images
    assert [image.problem for image in images] == [None, "the file is missing"]


def test_names_that_begin_elsewhere_are_found_by_their_end(photos):
    with pytest.warns(DataWarning, match=r"the longest end of each name"):
        inputs = find_images([listed(photos, "/data/upload/b.png")], folder=photos)
    assert inputs.images[0].path == photos / "b.png"


def test_a_file_without_images_is_refused(photos):
    path = photos.parent / "results.json"
    path.write_text('[{"image_id": 1}]')
    with pytest.raises(DataError, match=r"results\.json: "):
        find_images([path], folder=photos)
    with pytest.raises(DataError, match=r"test\.json: the list 'images' is empty"):
        find_images([listed(photos)], folder=photos)


def test_a_coco_file_comes_alone_and_with_the_folder_of_its_images(photos):
    path = listed(photos, "b.png")
    with pytest.raises(RecipeError, match=r"json: a COCO file lists the names of images; give --images FOLDER"):
        find_images([path])
    with pytest.raises(RecipeError, match=r"expected a COCO file alone and --images FOLDER"):
        find_images([path, photos], folder=photos)
    with pytest.raises(RecipeError, match=r"--images names the folder of a COCO file's images"):
        find_images([photos], folder=photos)
    (photos / "empty").mkdir()
    with pytest.raises(DataError, match=r'empty: has none of the 1 image of .*json, such as "b\.png"; give the folder'):
        find_images([path], folder=photos / "empty")
    with pytest.raises(DataError, match=r"nowhere: there is no such folder of images"):
        find_images([path], folder=photos / "nowhere")
