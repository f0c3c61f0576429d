"""The files of images: their names, the checks before training, and calls in threads."""

import json
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from deep_files import write_png, write_tiff
from PIL import Image

from composer_copypaste.data.annotation_json import CocoImage
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.data.image_files import check_images, map_in_threads, with_file_names_in_folder
from composer_copypaste.data.images import ImageHeader, read_header, read_image
from composer_copypaste.errors import DataError, DataWarning
from composer_copypaste.settings import ImageSettings

# ---- names that do not lead from the folder to an image


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
    return [image.file_name for image in with_file_names_in_folder(annotations, folder).images]


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
def test_the_longest_end_that_is_found_in_the_folder_is_taken_with_a_warning(folder, name, expected):
    with pytest.warns(DataWarning, match="1 of 1 file names do not lead from") as said:
        assert found(folder, name) == [expected]
    assert len(said) == 1


def test_an_absolute_name_in_the_folder_itself_is_taken(folder):
    with pytest.warns(DataWarning):
        assert found(folder, str(folder / "sub" / "b.png")) == ["sub/b.png"]


def test_names_that_lead_to_images_stay_without_a_warning(folder, recwarn):
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
    with pytest.raises(DataError, match=r'2 different file names lead to the same file, a\.png: "/x/a\.png", "/y/a'):
        found(folder, "/x/a.png", "/y/a.png")


def test_a_zip_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK\x03\x04...")
    with pytest.raises(DataError, match="expected a folder of images, got a zip archive"):
        found(tmp_path / "images.zip", "/home/a.png")


# ---- checks of every file before training


SQUARE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
WIDE = SQUARE[:4]
TWELVE_BITS = np.linspace(300, 4000, 64).astype(np.uint16).reshape(8, 8)


@pytest.fixture
def annotated(tmp_path):
    """Annotations of images that are 8 pixels wide and 8 high, unless told otherwise."""

    def write(*names: str, height: int = 8) -> CocoAnnotations:
        images = [{"id": n, "file_name": name, "height": height, "width": 8} for n, name in enumerate(names)]
        outline = {"bbox": [2, 1, 4, 2], "segmentation": [[2, 1, 6, 1, 6, 3, 2, 3]]}
        data = {
            "images": images,
            "categories": [{"id": 1, "name": "nut"}],
            "annotations": [{"id": n, "image_id": n, "category_id": 1, **outline} for n in range(len(names))],
        }
        (tmp_path / "annotations.json").write_text(json.dumps(data))
        return CocoAnnotations.load(tmp_path / "annotations.json")

    return write


def save_turned(path, pixels: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.webp"])
@pytest.mark.parametrize(("pixels", "orientation"), [(WIDE, 3), (WIDE, 2), (SQUARE, 6)])
def test_a_turn_that_does_not_change_the_size_is_warned_of(tmp_path, annotated, name, pixels, orientation):
    save_turned(tmp_path / name, pixels, orientation)
    with pytest.warns(DataWarning, match=rf"{name} has an orientation tag, .* pixels are taken as they are stored"):
        check_images(annotated(name, height=len(pixels)), tmp_path)


def test_a_quarter_turn_that_changes_the_size_is_not_warned_of(tmp_path, annotated):
    save_turned(tmp_path / "stored.png", WIDE, 6)
    save_turned(tmp_path / "turned.png", np.rot90(WIDE), 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_images(annotated("stored.png", "turned.png", height=4), tmp_path)


@pytest.mark.parametrize(("pixels", "orientation"), [(WIDE, 3), (SQUARE, 5), (SQUARE, 6), (SQUARE, 7), (WIDE, 8)])
def test_pixels_of_a_tiff_are_taken_as_stored_though_pillow_turns_them(tmp_path, pixels, orientation):
    save_turned(tmp_path / "a.tif", pixels, orientation)
    image = read_image(tmp_path / "a.tif", pixels.shape[:2])
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


def test_a_tiff_is_turned_where_only_the_turned_size_agrees(tmp_path):
    save_turned(tmp_path / "a.tif", WIDE, 6)  # 6: show it turned a quarter clockwise
    image = read_image(tmp_path / "a.tif", (8, 4))
    assert torch.equal(image, torch.from_numpy(np.rot90(WIDE, -1).copy()).permute(2, 0, 1))


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png", "a.webp"])
def test_a_file_of_several_pages_or_frames_is_warned_of(tmp_path, annotated, name):
    pages = [Image.fromarray(SQUARE), Image.fromarray(255 - SQUARE)]
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
    with pytest.warns(DataWarning, match=f"{name} has more than one page or frame: the first is used"):
        check_images(annotated(name), tmp_path)


def test_the_first_names_stand_for_all(tmp_path, annotated):
    names = [f"{number}.png" for number in range(5)]
    for name in names:
        save_turned(tmp_path / name, SQUARE, 3)
    with pytest.warns(DataWarning, match=r": 0\.png, 1\.png, 2\.png and 2 more have an orientation tag"):
        check_images(annotated(*names), tmp_path)


@pytest.mark.parametrize("pixels", [TWELVE_BITS, np.stack([TWELVE_BITS] * 3, axis=-1)], ids=["grey", "colors"])
def test_a_set_of_16_bit_files_that_hold_12_bits_is_refused_with_the_key(tmp_path, annotated, pixels):
    for name in ("a.png", "b.png"):
        write_png(tmp_path / name, pixels)
    annotations = annotated("a.png", "b.png")
    with pytest.raises(
        DataError, match=r"the largest value in 2 of them is 4000, of 65535: .* data\.value_range=\[0,4095\]"
    ):
        check_images(annotations, tmp_path)
    check_images(annotations, tmp_path, ImageSettings(value_range=(0.0, 4095.0)))
    check_images(annotations, tmp_path, ImageSettings(value_range=(0.0, 65535.0)))


def test_one_bright_file_makes_a_set_one_of_16_bits(tmp_path, annotated):
    write_png(tmp_path / "a.png", TWELVE_BITS)
    write_png(tmp_path / "b.png", TWELVE_BITS * 16)
    check_images(annotated("a.png", "b.png"), tmp_path)


def test_floating_point_files_are_refused_before_they_are_decoded(tmp_path, annotated):
    write_tiff(tmp_path / "a.tif", TWELVE_BITS.astype(np.float32))
    with pytest.raises(DataError, match=r"a\.tif \(image 0\): the image has floating-point pixels"):
        check_images(annotated("a.tif"), tmp_path)


def test_a_range_is_used_by_the_data_set(tmp_path, annotated):
    write_png(tmp_path / "a.png", TWELVE_BITS)
    data = CocoInstances(tmp_path, annotated("a.png"), image_settings=ImageSettings(value_range=(300.0, 4000.0)))
    assert (int(data[0][0].min()), int(data[0][0].max())) == (0, 255)


HUGE = (14_000, 14_000)


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """An image of 196 megapixels, beyond what Pillow opens; a few kilobytes of zeros."""
    path = tmp_path_factory.mktemp("huge") / "a.png"
    former, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    Image.new("1", HUGE).save(path)
    Image.MAX_IMAGE_PIXELS = former
    return path


def test_an_image_beyond_the_bound_is_refused_with_the_key_that_raises_it(huge):
    message = (
        rf"{huge}: the image is 14000 x 14000 \(width x height\), 196 megapixels, more than max_megapixels, 178: "
        "give data.max_megapixels=197"
    )
    with pytest.raises(DataError, match=message):
        read_image(huge, HUGE)


def test_a_raised_bound_lets_it_through(huge):
    assert read_header(huge, HUGE, ImageSettings(max_megapixels=200.0)) == ImageHeader(False, False, False)


def test_pillow_s_own_bound_counts_in_no_thread_and_stays_as_it_was(tmp_path, monkeypatch):
    Image.fromarray(SQUARE).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow raises from twice as many on
    with ThreadPoolExecutor(4) as threads:
        images = list(threads.map(lambda _: read_image(tmp_path / "a.png", (8, 8)), range(40)))
    assert len(images) == 40
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize(("name", "there"), [("A.PNG", "a.png"), ("sub/b.jpg", "sub/b.JPEG")])
def test_a_missing_file_that_is_there_by_almost_that_name_is_suggested(tmp_path, annotated, name, there):
    (tmp_path / "sub").mkdir()
    Image.fromarray(SQUARE).save(tmp_path / there)
    found = f'the file is missing, but "{there.rpartition("/")[2]}" is there$'
    with pytest.raises(DataError, match=rf"{name} \(image 0\): {found}"):
        check_images(annotated(name), tmp_path)


def test_a_missing_file_without_a_similar_one_is_named_alone(tmp_path, annotated):
    with pytest.raises(DataError, match=r"sub/a\.png \(image 0\): the file is missing$"):
        check_images(annotated("sub/a.png"), tmp_path)


# ---- calls in several threads


HANGS = """
import signal, sys, threading
from composer_copypaste.data.image_files import map_in_threads

def hang(item):
    if item == 1:
        print("hangs", flush=True)
    threading.Event().wait()

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes are started without it
try:
    map_in_threads(hang, [1, 2], 2)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_results_are_in_the_order_of_the_items(threads):
    def slow_first(item):
        time.sleep(0.05 * (item == 0))
        return 2 * item

    assert map_in_threads(slow_first, range(9), threads) == [*range(0, 18, 2)]
    assert map_in_threads(slow_first, [], threads) == []


def test_an_error_of_a_call_is_raised():
    def refuse(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 7"):
        map_in_threads(refuse, [7, 8], 2)


def test_ctrl_c_ends_a_program_whose_calls_hang():
    with subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "hangs\n"
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
        finally:
            process.kill()  # it would hang for ever
