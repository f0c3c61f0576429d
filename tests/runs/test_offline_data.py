"""Offline data sets: what is in them, that they are the same for any number of processes, and that nothing is lost."""

import errno
import json
import os
import shutil
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
from forked_runs import killed_in_a_child
from PIL import Image
from pycocotools.coco import COCO
from shard_cases import DataSet, contents, drawn

from composer_copypaste import CocoAnnotations, CocoInstances, PastePlan, copypaste_batch
from composer_copypaste.errors import DataError, OutputError
from composer_copypaste.processes import run_tasks
from composer_copypaste.recipes.schema import PoolSettings
from composer_copypaste.runs.augment import images as offline_images
from composer_copypaste.runs.augment import run as augment
from composer_copypaste.runs.augment.run import augment_data_set
from composer_copypaste.settings import AugmentSettings, OfflineCopyPasteSettings

PNG = AugmentSettings(format="png", per_image=2, seed=3, copy_paste=OfflineCopyPasteSettings(rotation=180))


def write(data_set: DataSet, output: Path, settings: AugmentSettings = PNG, **options):
    return augment_data_set(output, data_set.images, data_set.annotations, settings, **options)


def read(output: Path) -> dict:
    return json.loads((output / "annotations.json").read_text())


def changed(data_set: DataSet, folder: Path, change) -> DataSet:
    """The same images, with annotations that a function has changed."""
    content = json.loads(data_set.annotations.read_text())
    change(content)
    (folder / "changed.json").write_text(json.dumps(content))
    return DataSet(data_set.images, folder / "changed.json")


def pasted(entry: dict) -> bool:
    return "to_source" in entry["copy_paste"]


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> DataSet:
    """Twelve images."""
    return drawn(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def written(data_set, tmp_path_factory) -> Path:
    """Twice as many new ones, and the former ones."""
    folder = tmp_path_factory.mktemp("augmented") / "out"
    write(data_set, folder)
    return folder


# ---- what is in it


@pytest.fixture(scope="module")
def written_of_themselves(data_set, tmp_path_factory) -> Path:
    """A new image of each, which receives its own objects."""
    folder = tmp_path_factory.mktemp("of_themselves") / "out"
    copy_paste = OfflineCopyPasteSettings(source="self", scale_range=(1, 1), jitter="instance", placement="random")
    write(data_set, folder, AugmentSettings(format="png", seed=3, copy_paste=copy_paste))
    return folder


def test_each_new_image_is_the_plan_in_the_annotations_carried_out_on_the_former_data(data_set, written):
    assert check_new_images(data_set, written) == 24


def test_an_images_own_objects_are_pasted_on_it_where_it_is_the_source(data_set, written_of_themselves):
    assert check_new_images(data_set, written_of_themselves) > 10
    for image in read(written_of_themselves)["images"]:
        if "copy_paste" in image:
            assert image["copy_paste"]["source_image_id"] == image["copy_paste"]["base_image_id"]


def test_copies_that_lie_on_their_originals_are_left_out(data_set, tmp_path):
    still = OfflineCopyPasteSettings(source="both", scale_range=(1, 1), p_flip=0)
    write(data_set, tmp_path / "out", AugmentSettings(format="png", per_image=3, seed=1, copy_paste=still))
    found = [image["copy_paste"] for image in read(tmp_path / "out")["images"] if "copy_paste" in image]
    assert len(found) == 36
    assert not any(origin["source_image_id"] == origin["base_image_id"] for origin in found if origin["plan"])


@pytest.mark.parametrize("placement", ["source", "random"])
def test_by_mask_no_pixel_of_a_base_images_object_is_covered(data_set, tmp_path, placement):
    apart = OfflineCopyPasteSettings(placement=placement, max_overlap=0, overlap_by="mask", scale_range=(0.2, 0.5))
    write(data_set, tmp_path / "out", AugmentSettings(format="png", seed=1, copy_paste=apart))
    former, new = COCO(data_set.annotations), COCO(tmp_path / "out" / "annotations.json")
    count = 0
    for image in (image for image in new.dataset["images"] if "copy_paste" in image):
        base = former.imgToAnns[image["copy_paste"]["base_image_id"]]
        own = np.any([former.annToMask(entry) for entry in base], axis=0)
        for entry in filter(pasted, new.imgToAnns[image["id"]]):
            count += 1
            assert not (new.annToMask(entry) & own).any()
    assert count > 5


TRANSFORM = """import torch

def turned(image, alpha):
    k = int(torch.randint(4, ()))
    return 255 - image.rot90(k, (1, 2)), alpha.rot90(k, (1, 2))
"""


@pytest.mark.parametrize(
    "settings",
    [
        {"object_transform": "offline_transform:turned", "blend_sigma": (0.0, 2.0)},
        {"color_transfer": "reinhard", "transfer_strength": (0.2, 1.0), "blend_mode": "poisson"},
    ],
)
def test_transforms_and_colors_that_fit_are_those_of_the_plan_in_the_annotations(
    data_set, tmp_path, monkeypatch, settings
):
    (tmp_path / "offline_transform.py").write_text(TRANSFORM)
    monkeypatch.chdir(tmp_path)
    offline = OfflineCopyPasteSettings(scale_range=(0.5, 1.5), **settings)
    write(data_set, tmp_path / "out", AugmentSettings(format="png", seed=3, copy_paste=offline))
    assert check_new_images(data_set, tmp_path / "out", **settings) == 12


def check_new_images(data_set, written, **settings) -> int:
    """Check each new image, made with these settings; their number."""
    former, new = CocoInstances(data_set.images, data_set.annotations), COCO(written / "annotations.json")
    places = {image.id: place for place, image in enumerate(former.annotations.images)}
    images = [image for image in new.dataset["images"] if "copy_paste" in image]
    for image in images:
        origin, entries = image["copy_paste"], new.imgToAnns[image["id"]]
        numbers = [places[origin[key]] for key in ("base_image_id", "source_image_id")]
        batch, targets = zip(*(former[number] for number in numbers), strict=True)
        plan = PastePlan.from_json(json.dumps(origin["plan"]))
        (pixels, _), (target, _) = copypaste_batch(list(batch), list(targets), plan=plan, **settings)
        written_pixels = np.array(Image.open(written / "images" / image["file_name"]))
        difference = written_pixels.astype(int) - pixels.permute(1, 2, 0).numpy()
        # colors that fit are means of many pixels, summed in other windows where masks are cut-outs
        assert np.abs(difference).max() <= len(settings.keys() & {"color_transfer"})
        assert [new.annToMask(entry).tolist() for entry in entries] == target["masks"].tolist()
        ids = former.annotations.category_ids
        assert [entry["category_id"] for entry in entries] == [ids[label - 1] for label in target["labels"].tolist()]
        assert [entry["area"] for entry in entries] == target["area"].tolist()
        corners = [[x, y, x + w, y + h] for x, y, w, h in (entry["bbox"] for entry in entries)]
        assert corners == target["boxes"].tolist()
        assert any(map(pasted, entries))
    return len(images)


def test_an_object_says_where_it_comes_from(data_set, written):
    former, new = COCO(data_set.annotations), read(written)
    images = {image["id"]: image for image in new["images"]}
    for entry in (entry for entry in new["annotations"] if "copy_paste" in entry):
        origin, image = entry["copy_paste"], images[entry["image_id"]]["copy_paste"]
        assert former.anns[origin["annotation_id"]]["image_id"] == origin["image_id"]
        assert former.anns[origin["annotation_id"]]["category_id"] == entry["category_id"]
        assert origin["image_id"] == image["source_image_id" if pasted(entry) else "base_image_id"]
        assert not pasted(entry) or origin["to_source"] in [row["to_source"] for row in image["plan"]]


def test_objects_that_nothing_touched_keep_their_annotation(data_set, written):
    former, untouched = COCO(data_set.annotations), 0
    for entry in (entry for entry in read(written)["annotations"] if "copy_paste" in entry):
        before = former.anns[entry["copy_paste"]["annotation_id"]]
        if not pasted(entry) and entry["area"] == before["area"]:
            untouched += 1
            assert {**entry, "id": 0, "image_id": 0, "copy_paste": 0} == {
                **before,
                "id": 0,
                "image_id": 0,
                "copy_paste": 0,
            }
    assert untouched > 10


def test_the_former_images_and_annotations_come_first_as_they_were(data_set, written):
    former, new = json.loads(data_set.annotations.read_text()), read(written)
    assert new["images"][:12] == former["images"]
    assert new["annotations"][: len(former["annotations"])] == former["annotations"]
    assert new["categories"] == former["categories"]
    for image in former["images"]:
        name = image["file_name"]
        assert (written / "images" / name).read_bytes() == (data_set.images / name).read_bytes()
    for key in ("images", "annotations"):
        ids = [entry["id"] for entry in new[key]]
        assert len(set(ids)) == len(ids)


def test_every_key_of_file_image_category_and_object_follows(data_set, tmp_path):
    def change(content):
        content |= {"info": {"year": 2026}, "licenses": [{"id": 4, "name": "CC0"}], "custom": [1]}
        for number, image in enumerate(content["images"]):
            image |= {"license": 4, "group": f"g{number}"}
        content["categories"][0]["supercategory"] = "shape"
        for entry in content["annotations"]:
            entry["attributes"] = {"number": entry["id"]}

    source = changed(data_set, tmp_path, change)
    write(source, tmp_path / "out")
    former, new = json.loads(source.annotations.read_text()), read(tmp_path / "out")
    assert all(new[key] == former[key] for key in ("info", "licenses", "custom", "categories"))
    groups = {image["id"]: image["group"] for image in former["images"]}
    for image in new["images"][12:]:
        assert (image["license"], image["group"]) == (4, groups[image["copy_paste"]["base_image_id"]])
    for entry in new["annotations"][len(former["annotations"]) :]:
        assert entry["attributes"] == {"number": entry["copy_paste"]["annotation_id"]}


def test_crowds_stay_and_are_never_pasted(data_set, tmp_path):
    def change(content):
        for entry in content["annotations"][::3]:
            entry["iscrowd"] = 1

    source = changed(data_set, tmp_path, change)
    write(source, tmp_path / "out", crowds="ignore")
    entries = read(tmp_path / "out")["annotations"]
    crowds = {entry["id"] for entry in json.loads(source.annotations.read_text())["annotations"] if entry["iscrowd"]}
    assert any(entry["iscrowd"] for entry in entries if "copy_paste" in entry)
    for entry in (entry for entry in entries if "copy_paste" in entry):
        assert entry["iscrowd"] == (entry["copy_paste"]["annotation_id"] in crowds)
        assert not (pasted(entry) and entry["iscrowd"])


def test_keypoints_move_with_their_object_and_other_positions_are_left_out(data_set, tmp_path):
    def change(content):
        for entry in content["annotations"]:
            x, y, w, h = entry["bbox"]
            entry |= {
                "keypoints": [int(x + w / 2), int(y + h / 2), 2, 0, 0, 0],
                "num_keypoints": 1,
                "obb": [x, y, w, h, 0],
            }

    source = changed(data_set, tmp_path, change)
    moves = OfflineCopyPasteSettings(scale_range=(1.0, 1.0), p_flip=0.0, placement="random")
    settings = AugmentSettings(format="png", copy_paste=moves)
    with pytest.warns(UserWarning, match="'obb' may hold positions"):
        write(source, tmp_path / "out", settings)
    former = COCO(source.annotations)
    checked = 0
    for entry in (entry for entry in read(tmp_path / "out")["annotations"] if "copy_paste" in entry):
        before = former.anns[entry["copy_paste"]["annotation_id"]]
        assert ("obb" in entry) == (entry["segmentation"] == before["segmentation"])
        if pasted(entry):
            (_, _, x), (_, _, y) = entry["copy_paste"]["to_source"]
            moved = [before["keypoints"][0] - x, before["keypoints"][1] - y]
            assert entry["keypoints"][:2] in (moved, [0, 0])
            assert entry["num_keypoints"] == (entry["keypoints"][2] > 0)
            checked += entry["keypoints"][:2] == moved != before["keypoints"][:2]
    assert checked > 5


@pytest.mark.parametrize("masks", ["polygons", "rle"])
def test_masks_are_written_as_asked_and_read_the_same(data_set, written, tmp_path, masks):
    settings = AugmentSettings(format="png", per_image=2, seed=3, masks=masks, copy_paste=PNG.copy_paste)
    write(data_set, tmp_path / "out", settings)
    one, other = COCO(tmp_path / "out" / "annotations.json"), COCO(written / "annotations.json")
    kinds = {
        type(entry["segmentation"])
        for entry in one.dataset["annotations"]
        if entry.get("copy_paste", {}).get("to_source")
    }
    assert kinds == ({dict} if masks == "rle" else {list}) or kinds == {list, dict}
    assert kinds != {list} or masks == "polygons"
    for id_, entry in one.anns.items():
        assert (one.annToMask(entry) == other.annToMask(other.anns[id_])).all()


def test_jpeg_has_the_quality_asked_for(data_set, tmp_path):
    sizes = []
    for quality in (30, 95):
        write(data_set, tmp_path / f"{quality}", AugmentSettings(quality=quality))
        (path,) = (tmp_path / f"{quality}" / "images").glob("000001_pasted1.jpg")
        assert Image.open(path).format == "JPEG"
        sizes.append(path.stat().st_size)
    assert sizes[0] < 0.7 * sizes[1]


# ---- which images there are


@pytest.mark.parametrize("originals", ["link", "omit"])
def test_former_images_are_linked_or_left_out(data_set, tmp_path, originals):
    data = write(data_set, tmp_path / "out", AugmentSettings(originals=originals))
    name = "000001.png"
    assert (tmp_path / "out" / "images" / name).exists() == (originals == "link")
    assert data.originals == len(read(tmp_path / "out")["images"]) - 12 == (12 if originals == "link" else 0)
    if originals == "link":
        assert (tmp_path / "out" / "images" / name).samefile(data_set.images / name)
    else:
        assert min(image["id"] for image in read(tmp_path / "out")["images"]) == 13


def test_a_share_of_the_images_has_new_ones(data_set, tmp_path):
    new = [set(), set()]
    for seed in (0, 1):
        data = write(
            data_set, tmp_path / f"{seed}", AugmentSettings(fraction=0.5, per_image=3, seed=seed, originals="omit")
        )
        bases = [image["copy_paste"]["base_image_id"] for image in read(tmp_path / f"{seed}")["images"]]
        assert (data.new, len(bases)) == (18, 18)
        assert all(bases.count(base) == 3 for base in bases)
        new[seed] = set(bases)
    assert len(new[0]) == len(new[1]) == 6
    assert new[0] != new[1]


def test_p_below_one_leaves_some_as_they_are_and_says_how_many(data_set, tmp_path):
    settings = AugmentSettings(format="png", per_image=4, copy_paste=OfflineCopyPasteSettings(p=0.5), originals="omit")
    data = write(data_set, tmp_path / "out", settings)
    plain = [image for image in read(tmp_path / "out")["images"] if not image["copy_paste"]["plan"]]
    assert len(plain) == data.unchanged
    assert 12 < data.unchanged < 36
    for image in plain:
        former = np.array(Image.open(data_set.images / image["file_name"].replace(image["file_name"][6:], ".png")))
        assert (np.array(Image.open(tmp_path / "out" / "images" / image["file_name"])) == former).all()


def test_only_some_categories_may_be_pasted(data_set, tmp_path):
    categories = json.loads(data_set.annotations.read_text())["categories"]
    settings = AugmentSettings(copy_paste=OfflineCopyPasteSettings(categories=(categories[0]["name"],)))
    data = write(data_set, tmp_path / "out", settings)
    found = {
        entry["category_id"]
        for entry in read(tmp_path / "out")["annotations"]
        if entry.get("copy_paste") and pasted(entry)
    }
    assert found == {categories[0]["id"]}
    assert data.unchanged == 0


def test_backgrounds_receive_objects_at_their_own_size(data_set, tmp_path):
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    for name, size in (("wide.jpg", (150, 40)), ("sub/high.png", (50, 90))):
        Image.new("RGB", size, (9, 99, 9)).save(tmp_path / "empty" / name)
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    settings = AugmentSettings(backgrounds=tmp_path / "empty", per_image=3, format="png", originals="omit")
    write(data_set, tmp_path / "out", settings)
    new = read(tmp_path / "out")
    assert [image["file_name"] for image in new["images"]] == [
        *(f"wide_pasted{copy}.png" for copy in (1, 2, 3)),
        *(f"sub/high_pasted{copy}.png" for copy in (1, 2, 3)),
    ]
    coco = COCO(tmp_path / "out" / "annotations.json")
    for image in new["images"]:
        pixels = np.array(Image.open(tmp_path / "out" / "images" / image["file_name"]))
        assert pixels.shape[:2] == (image["height"], image["width"])
        entries = coco.imgToAnns[image["id"]]
        assert entries
        assert all(map(pasted, entries))
        covered = np.any([coco.annToMask(entry) for entry in entries], axis=0)
        assert (pixels[~covered] == (9, 99, 9)).all()


def test_cut_outs_of_a_pool_are_pasted_and_named(data_set, tmp_path):
    category = json.loads(data_set.annotations.read_text())["categories"][1]
    (tmp_path / "cutouts" / category["name"]).mkdir(parents=True)
    cut_out = np.zeros((20, 20, 4), dtype=np.uint8)
    cut_out[4:16, 4:16] = (250, 3, 3, 255)
    Image.fromarray(cut_out).save(tmp_path / "cutouts" / category["name"] / "red.png")
    copy_paste = OfflineCopyPasteSettings(p_pool=1.0, pool_scale_range=(1.0, 1.0))
    settings = AugmentSettings(format="png", copy_paste=copy_paste, originals="omit")
    write(data_set, tmp_path / "out", settings, pool=PoolSettings(folder=tmp_path / "cutouts"))
    coco, red = COCO(tmp_path / "out" / "annotations.json"), 0
    for entry in filter(pasted, coco.dataset["annotations"]):
        assert entry["copy_paste"]["cut_out"] == f"{category['name']}/red.png"
        assert entry["category_id"] == category["id"]
        image = coco.imgs[entry["image_id"]]
        pixels = np.array(Image.open(tmp_path / "out" / "images" / image["file_name"]))
        assert (pixels[coco.annToMask(entry) == 1] == (250, 3, 3)).all()
        red += 1
    assert red >= 12


# ---- again, for any number of processes, after a kill


@pytest.mark.usefixtures("forked_executors")
def test_the_bytes_are_the_same_for_more_processes_and_other_for_another_seed(data_set, written, tmp_path):
    write(data_set, tmp_path / "more", processes=3)
    assert contents(tmp_path / "more") == contents(written)
    write(data_set, tmp_path / "seed", AugmentSettings(format="png", per_image=2, seed=4, copy_paste=PNG.copy_paste))
    other = contents(tmp_path / "seed")
    assert other.keys() == contents(written).keys()
    assert sum(other[name] != content for name, content in contents(written).items()) > 20


def test_an_image_does_not_depend_on_how_many_others_there_are(data_set, written, tmp_path):
    def change(content):
        content["images"][0]["id"] = 99
        for entry in content["annotations"]:
            entry["image_id"] = 99 if entry["image_id"] == 1 else entry["image_id"]

    fewer = AugmentSettings(format="png", per_image=1, seed=3, fraction=0.5, copy_paste=PNG.copy_paste)
    write(data_set, tmp_path / "out", fewer)
    new = contents(tmp_path / "out" / "images")
    assert len(new) == 18
    assert new.items() <= contents(written / "images").items()


def test_a_killed_writing_is_continued_without_repetition_and_ends_with_the_same_bytes(data_set, written, tmp_path):
    output = tmp_path / "out"

    def write_four_images():
        numbers = iter(range(4))

        def four(*arguments):
            if next(numbers, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return offline_images.make_new_image(*arguments)

        augment.make_new_image = four
        write(data_set, output)

    killed_in_a_child(write_four_images)
    assert not (output / "annotations.json").exists()
    with (output / ".unfinished" / "images.jsonl").open("a") as file:
        file.write('\n{"number": 23, "chec')  # as a kill may leave it
    before = {path: path.stat().st_mtime_ns for path in output.glob("images/*_pasted*.png")}
    result = write(data_set, output)
    assert 0 < len(before) <= 4  # one may have been a draw on which nothing would be visible
    assert result.made == 24 - len(before)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert contents(output) == contents(written)


def test_the_same_call_again_changes_nothing_but_makes_missing_images_again(data_set, tmp_path):
    write(data_set, tmp_path / "out")
    before, times = (
        contents(tmp_path / "out"),
        {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")},
    )
    assert write(data_set, tmp_path / "out").made == 0
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    for name in ("000005_pasted2.png", "000003.png"):
        (tmp_path / "out" / "images" / name).unlink()
    assert write(data_set, tmp_path / "out").made == 1
    assert contents(tmp_path / "out") == before


def test_damaged_images_and_lost_annotations_of_a_complete_data_set_are_made_again(data_set, tmp_path):
    write(data_set, tmp_path / "out")
    before = contents(tmp_path / "out")
    images = sorted((tmp_path / "out" / "images").glob("*_pasted*"))
    images[0].write_bytes(b"")
    images[1].write_bytes(images[1].read_bytes()[:100])
    assert write(data_set, tmp_path / "out").made == 2
    assert contents(tmp_path / "out") == before
    (tmp_path / "out" / "annotations.json").unlink()
    write(data_set, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_changed_image_is_noticed_by_the_images_made_from_it(data_set, tmp_path, monkeypatch):
    source, output = DataSet(tmp_path / "pictures", data_set.annotations), tmp_path / "out"
    shutil.copytree(data_set.images, source.images)

    def stopped(*arguments):
        for number, found in enumerate(run_tasks(*arguments)):
            if number == 20:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(augment, "run_tasks", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(source, output)
    monkeypatch.undo()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(source.images / "000001.png")
    assert 4 < write(source, output).made < 24
    assert write(source, tmp_path / "reference").made == 24
    assert contents(output / "images") == contents(tmp_path / "reference" / "images")


# ---- what is refused


def test_a_full_disk_is_one_line_and_the_same_call_continues(data_set, written, tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def full(path, content):
        if len(list(tmp_path.glob("out/images/*_pasted*"))) == 5:
            write_bytes(path, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        OutputError, match=r"_pasted\d\.png: cannot be written: No space left on device; the same command"
    ):
        write(data_set, tmp_path / "out")
    monkeypatch.undo()
    assert not list((tmp_path / "out").rglob(".*.unfinished"))
    assert write(data_set, tmp_path / "out").made == 19
    assert contents(tmp_path / "out") == contents(written)


def test_an_unreadable_image_is_one_line_and_the_others_are_kept(data_set, written, tmp_path):
    source, output = DataSet(tmp_path / "pictures", data_set.annotations), tmp_path / "out"
    shutil.copytree(data_set.images, source.images)
    damaged = source.images / "000007.png"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(
        DataError, match=r"000007\.png: the image cannot be decoded.*\. The other images are kept"
    ) as caught:
        write(source, output)
    assert "\n" not in str(caught.value)
    shutil.copy2(data_set.images / "000007.png", damaged)
    result = write(source, output)
    assert 2 <= result.made < 12
    assert contents(output / "images") == contents(written / "images")


def test_a_folder_that_holds_anything_else_is_refused_and_kept(data_set, written, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="expected a new or an empty folder for the new images"):
        write(data_set, tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine"}
    before = contents(written)
    with pytest.raises(OutputError, match=r"of another source, which differs in seed \(3 there, 4 given\); give"):
        write(data_set, written, AugmentSettings(format="png", per_image=2, seed=4, copy_paste=PNG.copy_paste))
    with pytest.raises(OutputError, match=r"differs in format \('png' there, .* copy_paste\.rotation \("):
        write(data_set, written, AugmentSettings(per_image=2, seed=3))
    assert contents(written) == before


def test_a_file_that_was_put_into_an_unfinished_data_set_is_named_and_kept(data_set, written, tmp_path):
    shutil.copytree(written, tmp_path / "out")
    (tmp_path / "out" / "annotations.json").unlink()
    source = json.loads((tmp_path / "out" / "copypaste.json").read_text())["source"]
    (tmp_path / "out" / "copypaste.json").unlink()
    (tmp_path / "out" / ".unfinished").mkdir()
    (tmp_path / "out" / ".unfinished" / "source.json").write_text(json.dumps(source))
    (tmp_path / "out" / "images" / ".DS_Store").write_text("of a file manager")
    for name in ("mine.txt", "images/mine.png"):
        (tmp_path / "out" / name).write_text("mine")
        with pytest.raises(OutputError, match=f"unfinished new images, and files that are not of them: {name}; move"):
            write(data_set, tmp_path / "out")
        (tmp_path / "out" / name).unlink()
    assert write(data_set, tmp_path / "out").made == 24
    assert (tmp_path / "out" / "annotations.json").read_bytes() == (written / "annotations.json").read_bytes()


def test_data_of_which_nothing_may_be_pasted_is_refused(data_set, tmp_path):
    settings = AugmentSettings(copy_paste=OfflineCopyPasteSettings(area_range=(1e6, 1e7)))
    with pytest.raises(DataError, match=r"none of its objects may be pasted"):
        write(data_set, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()


def test_a_single_image_has_no_other_to_copy_from(data_set, tmp_path):
    def keep_one(content):
        kept = content["images"][0]["id"]
        for key, name in (("images", "id"), ("annotations", "image_id")):
            content[key] = [each for each in content[key] if each[name] == kept]

    single = changed(data_set, tmp_path, keep_one)
    with pytest.raises(DataError, match=r"changed\.json: has one image, and no other .* give source=self"):
        write(single, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    of_itself = AugmentSettings(copy_paste=OfflineCopyPasteSettings(source="self"))
    assert write(single, tmp_path / "out", of_itself).pasted


def test_backgrounds_that_are_no_images_are_listed(data_set, tmp_path):
    (tmp_path / "empty").mkdir()
    settings = AugmentSettings(backgrounds=tmp_path / "empty")
    with pytest.raises(DataError, match="expected images for backgrounds, the folder has none"):
        write(data_set, tmp_path / "out", settings)
    (tmp_path / "empty" / "notes.jpg").write_text("none")
    with pytest.raises(DataError, match=r"cannot be used as backgrounds: notes\.jpg: .* not an image"):
        write(data_set, tmp_path / "out", settings)


# ---- other tools


def test_our_own_data_set_reads_it_without_a_warning(written):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = CocoInstances(written / "images", CocoAnnotations.load(written / "annotations.json"))
        for _, target in data:
            assert (target["masks"].flatten(1).sum(1) > 0).all()


def test_torchvision_reads_it_without_a_warning(written):
    from torchvision.datasets import CocoDetection

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", "__array__ implementation", DeprecationWarning
        )  # pycocotools' own, on NumPy 2
        data = CocoDetection(str(written / "images"), str(written / "annotations.json"))
        for image, entries in data:
            assert all(data.coco.annToMask(entry).shape == image.size[::-1] for entry in entries)
    assert len(data) == 36


def test_supervision_reads_the_same_masks(written):
    supervision = pytest.importorskip("supervision")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = supervision.DetectionDataset.from_coco(
            str(written / "images"), str(written / "annotations.json"), force_masks=True
        )
        found = {Path(path).name: len(detections) for path, _, detections in data}
    coco = COCO(written / "annotations.json")
    assert found == {image["file_name"]: len(coco.imgToAnns[id_]) for id_, image in coco.imgs.items()}
