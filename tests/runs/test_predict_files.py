import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from forked_runs import killed_in_a_child
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from small_runs import FIG, NUT, small_run

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.images import read_image
from composer_copypaste.data.outlines import without_holes
from composer_copypaste.data.rle import CroppedMask
from composer_copypaste.errors import DataError, DataWarning, OutputError
from composer_copypaste.runs.predict import run as predict_run
from composer_copypaste.runs.predict.run import predict_files
from composer_copypaste.runs.predictor import load_predictor
from composer_copypaste.settings import PredictSettings


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("predict") / "run")


@pytest.fixture
def photos(tmp_path):
    """0.png to 4.png, of several sizes; the model's batches have two images."""
    (tmp_path / "photos").mkdir()
    generator = np.random.default_rng(0)
    for number, size in enumerate([(40, 60), (50, 50), (60, 40), (33, 70), (64, 64)]):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def results(folder):
    return json.loads((folder / "results.json").read_text())


def mask_area(polygon, size):
    return int(coco_mask.area(coco_mask.frPyObjects([polygon], *size))[0])


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_results_are_what_the_model_finds_with_the_categories_of_its_run(model, photos, tmp_path):
    predict_files(model, photos, tmp_path / "found")
    paths = sorted(photos.iterdir())
    images = [read_image(path, np.asarray(Image.open(path)).shape[:2]) for path in paths]
    detect = load_predictor(model).detect
    expected = [found for start in (0, 2, 4) for found in detect(images[start : start + 2])]
    written = results(tmp_path / "found")
    assert [entry["image_id"] for entry in written] == [number for number in range(1, 6) for _ in range(6)]
    assert {entry["category_id"] for entry in written} <= {5, 3}
    labels = torch.cat([found["labels"] for found in expected]).tolist()
    assert [entry["category_id"] for entry in written] == [{1: 5, 2: 3}[label] for label in labels]
    scores = torch.cat([found["scores"] for found in expected])
    assert torch.equal(torch.tensor([entry["score"] for entry in written]), scores)
    codes = [rle["counts"].decode() for found in expected for rle in found["rles"]]
    assert [entry["segmentation"]["counts"] for entry in written] == codes


def test_pycocotools_loads_results_for_the_images_beside_them(model, photos, tmp_path):
    files = predict_files(model, photos, tmp_path / "found")
    images = COCO(str(tmp_path / "found" / "images.json"))
    loaded = images.loadRes(str(tmp_path / "found" / "results.json"))
    assert (files.images, files.objects, files.unreadable) == (5, 30, ())
    assert len(loaded.anns) == 30
    assert [image["file_name"] for image in images.loadImgs([1, 4])] == ["0.png", "3.png"]
    assert [(image["height"], image["width"]) for image in images.loadImgs([1, 4])] == [(40, 60), (33, 70)]
    assert {category["id"]: category["name"] for category in images.loadCats([3, 5])} == {3: "fig", 5: "nut"}


def test_a_killed_prediction_goes_on_and_writes_the_same_files(model, photos, tmp_path, monkeypatch):
    settings = PredictSettings(draw=True, as_annotations=True, min_score=0.0)
    predict_files(model, photos, tmp_path / "whole", settings)
    batches, predict_batch = [], predict_run._predict_batch

    def predict(work, predictor, batch, stamps):
        batches.append([read.image.file_name for read in batch])
        if len(batches) == 2 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return predict_batch(work, predictor, batch, stamps)

    parent = os.getpid()
    monkeypatch.setattr(predict_run, "_predict_batch", predict)
    killed_in_a_child(lambda: predict_files(model, photos, tmp_path / "found", settings))
    records = tmp_path / "found" / ".unfinished" / "records.jsonl"
    with records.open("ab") as file:
        file.write(records.read_bytes().strip()[:-5])  # as if it was killed while it wrote
    assert predict_files(model, photos, tmp_path / "found", settings).kept == 2
    assert batches == [["2.png", "3.png"], ["4.png"]]
    assert files_of(tmp_path / "found") == files_of(tmp_path / "whole")


def test_an_image_that_changed_before_the_end_is_looked_at_again(model, photos, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(predict_run, "_write_files", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_files(model, photos, tmp_path / "found")
    Image.new("RGB", (60, 40), "white").save(photos / "2.png")
    assert predict_files(model, photos, tmp_path / "found").kept == 3  # 2.png is in a batch of two
    predict_files(model, photos, tmp_path / "afresh")
    assert results(tmp_path / "found") == results(tmp_path / "afresh")


def test_unreadable_images_are_named_and_do_not_stop_it(model, photos, tmp_path):
    predict_files(model, photos, tmp_path / "whole")
    repaired = {name: (photos / name).read_bytes() for name in ("0.png", "3.png")}
    (photos / "0.png").write_bytes(b"no image")
    (photos / "3.png").write_bytes(repaired["3.png"][:2000])  # whose header is good
    files = predict_files(model, photos, tmp_path / "found")
    assert files.images == 3
    assert [line.partition(": ")[0] for line in files.unreadable] == [str(photos / "0.png"), str(photos / "3.png")]
    assert sorted({entry["image_id"] for entry in results(tmp_path / "found")}) == [2, 3, 5]
    listed = json.loads((tmp_path / "found" / "images.json").read_text())["images"]
    assert [image["id"] for image in listed] == [2, 3, 5]
    assert predict_files(model, photos, tmp_path / "found") == replace(files, kept=5)  # says it again

    for name, content in repaired.items():
        (photos / name).write_bytes(content)
    again = predict_files(model, photos, tmp_path / "found")
    assert (again.images, again.kept, again.unreadable) == (5, 1, ())  # in batches of two, each with a repaired one
    assert results(tmp_path / "found") == results(tmp_path / "whole")


def test_complete_predictions_are_left_as_they_are(model, photos, tmp_path):
    predict_files(model, photos, tmp_path / "found")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "found").rglob("*")}
    assert predict_files(model, photos, tmp_path / "found").kept == 5
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "found").rglob("*")} == times


def test_a_folder_with_other_predictions_or_other_files_is_refused_with_what_differs(model, photos, tmp_path):
    def refused(why, *arguments, **options):
        with pytest.raises(OutputError, match=why):
            predict_files(model, *arguments, **options)

    predict_files(model, photos, found := tmp_path / "found")
    differs = r"found: holds predictions of another source, which differs in"
    refused(rf"{differs} min_score \(null there, 0\.3 given\); give", photos, found, PredictSettings(min_score=0.3))
    changes = ["model.detections_per_image=3"]
    refused(rf"{differs} recipe \(\[\] there, \['model", photos, found, overrides=changes)
    refused(rf"{differs} images \(not given: 0\.png, 2\.png\)", [photos / f"{n}.png" for n in (1, 3, 4)], found)
    refused(rf"{differs} images \(not given: 0\.png, 1\.png, 2\.png and 1 more\)", photos / "3.png", found)
    Image.new("RGB", (60, 40), "white").save(photos / "2.png")
    refused(rf"{differs} images \(changed: 2\.png\)", photos, found)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "results.json").write_text("[]")
    refused(r"mine: expected a new or an empty folder for the predictions", photos, tmp_path / "mine")
    refused(r"0\.png: expected a folder for the predictions, found a file", photos, photos / "0.png" / "found")
    assert len(results(found)) == 30


# ---- what is added to complete predictions


@pytest.fixture
def looked_at(monkeypatch):
    """The names of the images that a model is given."""
    names, predict_batch = [], predict_run._predict_batch

    def predict(work, predictor, batch, stamps):
        names.extend(read.image.file_name for read in batch)
        return predict_batch(work, predictor, batch, stamps)

    monkeypatch.setattr(predict_run, "_predict_batch", predict)
    return names


def test_new_images_are_added_to_complete_predictions(model, photos, tmp_path, looked_at):
    last = photos / "4.png"
    last.rename(tmp_path / "4.png")
    predict_files(model, photos, tmp_path / "found", PredictSettings(draw=True))
    (tmp_path / "4.png").rename(last)
    predict_files(model, photos, tmp_path / "afresh", PredictSettings(draw=True))
    looked_at.clear()
    assert predict_files(model, photos, tmp_path / "found").kept == 4  # also draws, as the folder's others are drawn
    assert looked_at == ["4.png"]
    assert files_of(tmp_path / "found") == files_of(tmp_path / "afresh")


def test_results_follow_their_images_where_one_is_added_before_them(model, photos, tmp_path, looked_at):
    predict_files(model, photos, tmp_path / "found")
    before = results(tmp_path / "found")
    looked_at.clear()
    Image.new("RGB", (50, 50), "white").save(photos / "00.png")
    predict_files(model, photos, tmp_path / "found")
    assert looked_at == ["0.png", "00.png"]  # a batch of two
    listed = json.loads((tmp_path / "found" / "images.json").read_text())["images"]
    assert [image["file_name"] for image in listed] == ["0.png", "00.png", "1.png", "2.png", "3.png", "4.png"]
    moved = [entry | {"image_id": entry["image_id"] + 1} for entry in before if entry["image_id"] > 1]
    assert [entry for entry in results(tmp_path / "found") if entry["image_id"] > 2] == moved


def test_overlays_and_annotations_are_added_without_the_model(model, photos, tmp_path, looked_at):
    written = PredictSettings(draw=True, as_annotations=True, min_score=0.0)
    predict_files(model, photos, tmp_path / "afresh", written)
    predict_files(model, photos, tmp_path / "found", PredictSettings(min_score=0.0))
    looked_at.clear()
    assert predict_files(model, photos, tmp_path / "found", written).kept == 5
    assert looked_at == []
    assert files_of(tmp_path / "found") == files_of(tmp_path / "afresh")


def test_an_addition_that_is_killed_goes_on_and_loses_nothing(model, photos, tmp_path, looked_at, monkeypatch):
    predict_files(model, photos, tmp_path / "found")
    before = results(tmp_path / "found")
    for number in (5, 6):
        Image.new("RGB", (50, 50), "white").save(photos / f"{number}.png")
    for name in ("_reopen", "_write_files"):
        function = getattr(predict_run, name)

        def then_killed(*arguments, function=function):
            function(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        with monkeypatch.context() as context:
            context.setattr(predict_run, name, then_killed)
            killed_in_a_child(lambda: predict_files(model, photos, tmp_path / "found"))
        assert results(tmp_path / "found")[: len(before) - 6] == before[:-6]  # 4.png is in the batch of 5.png
    looked_at.clear()
    predict_files(model, photos, tmp_path / "found")
    predict_files(model, photos, tmp_path / "afresh")
    assert files_of(tmp_path / "found") == files_of(tmp_path / "afresh")


def test_files_that_were_corrected_by_hand_are_not_written_again(model, photos, tmp_path):
    settings = PredictSettings(as_annotations=True)
    (photos / "5.png").write_bytes(b"no image")
    for unreadable in (True, False):
        predict_files(model, photos, tmp_path / "found", settings)
        corrected = tmp_path / "found" / "annotations.json"
        written = corrected.read_bytes()
        corrected.write_text("{}")
        Image.new("RGB", (50, 50)).save(photos / ("5.png" if unreadable else "6.png"))
        with pytest.raises(OutputError, match=r"annotations\.json: was changed or removed since it was written"):
            predict_files(model, photos, tmp_path / "found", settings)
        assert corrected.read_text() == "{}"
        corrected.write_bytes(written)
    assert predict_files(model, photos, tmp_path / "found", settings).images == 7


def test_a_file_that_was_put_among_unfinished_predictions_is_named(model, photos, tmp_path):
    (photos / "5.png").write_bytes(b"no image")
    predict_files(model, photos, tmp_path / "found")
    (tmp_path / "found" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"unfinished predictions, and files that are not of them: notes\.txt; move"):
        predict_files(model, photos, tmp_path / "found")


def test_an_overlay_gets_the_ending_of_its_image_once_another_has_its_name(model, photos, tmp_path):
    predict_files(model, photos, tmp_path / "found", PredictSettings(draw=True))
    Image.new("RGB", (50, 40), "white").save(photos / "4.jpg")
    predict_files(model, photos, tmp_path / "found")
    drawn = {path.name for path in (tmp_path / "found" / "drawn").iterdir()}
    assert drawn == {"0.png", "1.png", "2.png", "3.png", "4.jpg.png", "4.png.png"}


def test_annotations_have_the_pixels_of_the_masks_and_the_scores(model, photos, tmp_path):
    predict_files(model, photos, tmp_path / "found", PredictSettings(as_annotations=True, min_score=0.0))
    path = tmp_path / "found" / "annotations.json"
    theirs = COCO(str(path))
    ours = COCO(str(tmp_path / "found" / "images.json")).loadRes(results(tmp_path / "found"))
    drawn = [ours.annToMask(entry) for entry in ours.dataset["annotations"]]
    drawn = [mask for mask in drawn if mask.any()]
    assert len(theirs.anns) == len(drawn) > 10
    for entry, mask in zip(theirs.dataset["annotations"], drawn, strict=True):
        filled = without_holes(CroppedMask(0, 0, mask)).mask
        assert np.array_equal(theirs.annToMask(entry), filled)
        assert (entry["area"], entry["iscrowd"]) == (filled.sum(), 0)
        areas = [mask_area(part, mask.shape) for part in entry["segmentation"]]
        assert areas == sorted(areas, reverse=True)
    scores = [entry["score"] for entry in ours.dataset["annotations"] if ours.annToMask(entry).any()]
    assert [entry["score"] for entry in theirs.dataset["annotations"]] == scores
    assert CocoAnnotations.load(path, bad_objects="leave_out").categories[0].name == "fig"


def test_objects_of_lower_scores_are_left_out(model, photos, tmp_path):
    predict_files(model, photos, tmp_path / "all")
    every = results(tmp_path / "all")
    middle = sorted(entry["score"] for entry in every)[15]
    predict_files(model, photos, tmp_path / "found", PredictSettings(min_score=middle))
    assert results(tmp_path / "found") == [entry for entry in every if entry["score"] >= middle]


def test_annotations_have_sure_objects_only(model, photos, tmp_path):
    predict_files(model, photos, tmp_path / "found", PredictSettings(as_annotations=True))
    sure = [entry for entry in results(tmp_path / "found") if entry["score"] >= 0.5]
    entries = json.loads((tmp_path / "found" / "annotations.json").read_text())["annotations"]
    assert len(entries) <= len(sure) < 30


def test_each_image_is_drawn_under_its_name(model, photos, tmp_path):
    (photos / "deeper").mkdir()
    Image.new("RGB", (50, 40), "white").save(photos / "deeper" / "0.jpg")
    Image.new("RGB", (50, 40), "white").save(photos / "0.jpg")
    predict_files(model, photos, tmp_path / "found", PredictSettings(draw=True, min_score=0.0))
    drawn = tmp_path / "found" / "drawn"
    names = sorted(path.relative_to(drawn).as_posix() for path in drawn.rglob("*.png"))
    assert names == ["0.jpg.png", "0.png.png", "1.png", "2.png", "3.png", "4.png", "deeper/0.png"]
    with Image.open(drawn / "1.png") as image, Image.open(photos / "1.png") as before:
        assert image.size == before.size
        assert image.tobytes() != before.tobytes()


def test_tiles_and_mirror_images_are_used_where_asked_for(model, photos, tmp_path):
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (100, 150, 3), dtype=np.uint8)).save(photos / "5.png")
    predict_files(model, photos / "5.png", tmp_path / "whole")
    predict_files(model, photos / "5.png", tmp_path / "tiles", PredictSettings(tiles=64))
    predict_files(model, photos / "5.png", tmp_path / "flipped", PredictSettings(tta="flip"))
    assert len(results(tmp_path / "whole")) == 6  # the model's limit
    assert len(results(tmp_path / "tiles")) > 6
    assert {tuple(entry["segmentation"]["size"]) for entry in results(tmp_path / "tiles")} == {(100, 150)}
    assert 6 <= len(results(tmp_path / "flipped")) <= 12
    assert results(tmp_path / "flipped") != results(tmp_path / "whole")


# ---- COCO files


def image_list(tmp_path, **changes):
    """A test set with the image 1.png, which is the image 70."""
    entry = {"id": 70, "file_name": "1.png", "height": 50, "width": 50, "site": 4}
    (tmp_path / "test.json").write_text(json.dumps({"info": {"year": 2026}, "images": [entry]} | changes))
    return tmp_path / "test.json"


def test_results_of_a_coco_file_have_the_ids_of_its_images(model, photos, tmp_path):
    path = image_list(tmp_path, categories=[NUT, FIG])
    predict_files(model, path, tmp_path / "found", folder=photos)
    assert not (tmp_path / "found" / "images.json").exists()
    loaded = COCO(str(path)).loadRes(str(tmp_path / "found" / "results.json"))
    assert {entry["image_id"] for entry in loaded.dataset["annotations"]} == {70}


def test_images_are_added_to_results_of_a_coco_file_whose_ids_stay(model, photos, tmp_path, looked_at):
    predict_files(model, image_list(tmp_path), tmp_path / "found", folder=photos)
    entries = [{"id": id_, "file_name": f"{name}.png", "height": 50, "width": 50} for id_, name in ((7, 0), (70, 1))]
    for image in (photos / "0.png", photos / "1.png"):
        stat = image.stat()
        pixels = Image.open(image).resize((50, 50))
        if image.name == "0.png":
            pixels.save(image)
        assert image.name == "0.png" or image.stat().st_mtime_ns == stat.st_mtime_ns
    path = image_list(tmp_path, images=entries)
    looked_at.clear()
    predict_files(model, path, tmp_path / "found", folder=photos)
    assert {entry["image_id"] for entry in results(tmp_path / "found")} == {7, 70}
    path = image_list(tmp_path, images=[entry | {"id": entry["id"] + 1} for entry in entries])
    with pytest.raises(OutputError, match=r"differs in ids \(.*"):
        predict_files(model, path, tmp_path / "found", folder=photos)


def test_results_of_a_coco_file_without_categories_have_those_of_the_model_beside_them(model, photos, tmp_path):
    predict_files(model, image_list(tmp_path), tmp_path / "found", folder=photos)
    images = COCO(str(tmp_path / "found" / "images.json"))
    loaded = images.loadRes(str(tmp_path / "found" / "results.json"))
    assert {entry["image_id"] for entry in loaded.dataset["annotations"]} == {70}
    assert images.imgs[70]["site"] == 4


def test_category_ids_are_those_of_the_coco_file(model, photos, tmp_path):
    path = image_list(tmp_path, categories=[{"id": 11, "name": "nut"}, {"id": 12, "name": "fig", "kind": "soft"}])
    settings = PredictSettings(as_annotations=True, min_score=0.0)
    with pytest.warns(DataWarning, match=r"test\.json: category ids .*: 5 is 11 there, 3 is 12 there"):
        predict_files(model, path, tmp_path / "found", settings, folder=photos)
    assert {entry["category_id"] for entry in results(tmp_path / "found")} <= {11, 12}
    written = json.loads((tmp_path / "found" / "annotations.json").read_text())
    assert written["info"] == {"year": 2026}
    assert written["images"][0]["site"] == 4
    assert written["categories"][1] == {"id": 12, "name": "fig", "kind": "soft"}


def test_categories_that_the_coco_file_lacks_are_left_out(model, photos, tmp_path):
    path = image_list(tmp_path, categories=[{"id": 11, "name": "nut"}])
    with pytest.warns(DataWarning, match=r'left out, as it lacks them: "fig"'):
        predict_files(model, path, tmp_path / "found", folder=photos)
    assert {entry["category_id"] for entry in results(tmp_path / "found")} <= {11}


def test_a_coco_file_of_other_categories_is_refused(model, photos, tmp_path):
    path = image_list(tmp_path, categories=[{"id": 1, "name": "car"}])
    with pytest.raises(DataError, match=r"test\.json: its categories, car, have neither the names nor the ids"):
        predict_files(model, path, tmp_path / "found", folder=photos)
    assert not (tmp_path / "found").exists()
