"""``copypaste split``, ``subset``, ``merge`` and ``leaks`` as their users meet them."""

import json

import pytest
import supervision
from click.testing import CliRunner
from image_sets import write_set
from pycocotools.coco import COCO
from torchvision.datasets import CocoDetection

from composer_copypaste.cli import main
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.settings import ShapesSettings


def run(*arguments):
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """The folder and the annotations of 20 drawn images."""
    root = draw_shapes(
        ShapesSettings(folder=str(tmp_path_factory.mktemp("drawn") / "shapes"), train=20, val=1, size=64)
    )
    return root / "train", root / "annotations" / "instances_train.json"


def test_a_split_says_what_each_part_has(shapes, tmp_path):
    images, annotations = shapes
    parts = tmp_path / "parts"
    result = run("split", parts, "--annotations", annotations, "--images", images, "--parts", "train=0.75,val=0.25")
    lines = result.stdout.splitlines()
    for name, line in zip(("train", "val"), lines, strict=True):
        content = json.loads((parts / f"{name}.json").read_text())
        share = len(content["images"]) / 20
        assert line.startswith(f"{parts / name}.json: {len(content['images'])} images ({100 * share:.1f} %), ")
        assert f", {len(content['annotations'])} objects (" in line
        assert "; of each category " in line
    assert [json.loads((parts / f"{name}.json").read_text())["images"].__len__() for name in ("train", "val")] == [
        15,
        5,
    ]


def test_every_tool_reads_what_is_written_and_so_does_training(shapes, tmp_path):
    images, annotations = shapes
    run("split", tmp_path, "--annotations", annotations, "--parts", "train=0.75,val=0.25")
    run("subset", tmp_path / "subset.json", "--annotations", tmp_path / "train.json", "--fraction", "0.4")
    result = run("merge", tmp_path / "merged.json", tmp_path / "subset.json", tmp_path / "val.json", "--renumber")
    assert result.stdout.startswith(f"{tmp_path / 'merged.json'}: 11 images, ")
    for name, number in (("train", 15), ("val", 5), ("subset", 6), ("merged", 11)):
        path = tmp_path / f"{name}.json"
        coco = COCO(path)
        assert len(coco.imgs) == number
        assert len(CocoDetection(str(images), str(path))[0][1]) == len(coco.imgToAnns[min(coco.imgs)])
        assert len(supervision.DetectionDataset.from_coco(str(images), str(path), force_masks=True)) == number
        data = CocoInstances(images, path)
        assert (len(data), data.num_objects) == (number, len(coco.anns))
        assert data[0][1]["masks"].any()


def test_the_same_commands_give_the_same_bytes_and_overwrite_nothing(shapes, tmp_path):
    _, annotations = shapes
    commands = [
        ["split", tmp_path / "parts", "--annotations", annotations, "--parts", "a=0.5,b=0.5"],
        ["subset", tmp_path / "subset.json", "--annotations", annotations, "--fraction", "0.5"],
        ["merge", tmp_path / "merged.json", annotations],
    ]
    for command in commands:
        before, _ = (
            {path: path.read_bytes() for path in tmp_path.rglob("*.json")} for _ in [run(*command), run(*command)]
        )
        assert before
        change = ["--renumber", "--rename", "disc=coin"] if command[0] == "merge" else ["--seed", "1"]
        result = run(*command, *change)
        assert result.exit_code == 2
        assert result.stderr.endswith("is there already, and holds something else: remove it, or name another output\n")
        assert {path: path.read_bytes() for path in tmp_path.rglob("*.json")} == before


def test_a_subset_of_listed_images(shapes, tmp_path):
    _, annotations = shapes
    names = [image["file_name"] for image in json.loads(annotations.read_text())["images"][2:4]]
    (tmp_path / "list.txt").write_text("\n".join(names))
    result = run("subset", tmp_path / "two.json", "--annotations", annotations, "--images-list", tmp_path / "list.txt")
    assert result.stdout.startswith(f"{tmp_path / 'two.json'}: 2 images, ")
    assert [image["file_name"] for image in json.loads((tmp_path / "two.json").read_text())["images"]] == names


def test_a_subset_without_a_choice_is_refused(shapes, tmp_path):
    result = CliRunner().invoke(main, ["subset", str(tmp_path / "all.json"), "--annotations", str(shapes[1])])
    assert result.exit_code == 2
    assert "expected --images-list, --categories or --fraction" in result.stderr


def test_a_subset_of_categories(shapes, tmp_path):
    _, annotations = shapes
    result = run("subset", tmp_path / "one.json", "--annotations", annotations, "--categories", "disc, star")
    assert result.stdout.endswith(" of 2 categories\n")
    content = json.loads((tmp_path / "one.json").read_text())
    assert {category["name"] for category in content["categories"]} == {"disc", "star"}
    assert {a["image_id"] for a in content["annotations"]} == {image["id"] for image in content["images"]}


def test_a_merge_renames_and_says_what_has_changed(tmp_path):
    one = write_set(tmp_path, "one", {"a.png": b"sky"})
    other = write_set(tmp_path, "other", {"a.png": b"sea"})
    folders = ["--images", tmp_path / "one", "--images", tmp_path / "other"]
    result = run("merge", tmp_path / "all.json", one, other, *folders, "--rename", "nut=seed")
    assert result.stdout == (
        f"{tmp_path / 'all.json'}: 2 images, 2 objects of 1 category; new ids for 1 image, 1 annotation; file names "
        f"are relative to {tmp_path}\n"
    )
    assert json.loads((tmp_path / "all.json").read_text())["categories"] == [{"id": 5, "name": "seed"}]


def test_a_leak_is_named_and_is_the_exit_code(tmp_path):
    one = write_set(tmp_path, "one", {"a.png": b"sky", "b.png": b"sea"})
    other = write_set(tmp_path, "other", {"c.png": b"sky"})
    folders = ["--images", tmp_path / "one", "--images", tmp_path / "other"]
    found, none = run("leaks", one, other, *folders), run("leaks", one, other, "--group", "id")
    assert found.stdout.splitlines() == [
        f"equal files  {one}: a.png = {other}: c.png",
        f"{one}, {other}: 1 image in more than one of them",
    ]
    assert found.exit_code == none.exit_code == 1
    (tmp_path / "other" / "c.png").write_bytes(b"fog")
    none = run("leaks", one, other, *folders)
    assert (none.stdout, none.exit_code) == (f"{one}, {other}: 0 images in more than one of them\n", 0)


@pytest.mark.parametrize("parts", ["train", "train=much", "train=0.5,train=0.5", "=1", ""])
def test_parts_are_names_with_shares(shapes, tmp_path, parts):
    result = run("split", tmp_path, "--annotations", shapes[1], "--parts", parts)
    assert result.exit_code == 2
    assert "expected" in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["split", "--parts", "a=0.5,b=0.5"], ["subset", "--fraction", "0.5"], ["merge"]])
def test_a_broken_file_is_one_line_and_nothing_is_written(tmp_path, command):
    broken = tmp_path / "broken.json"
    broken.write_text('{"images": []}')
    source = [broken] if command[0] == "merge" else ["--annotations", broken]
    result = run(command[0], tmp_path / "out", *source, *command[1:])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {broken}: 2 problems")
    assert not (tmp_path / "out").exists()


def test_bad_objects_are_left_out_on_demand(tmp_path):
    path = write_set(tmp_path, "one", {"a.png": b"sky", "b.png": b"sea"})
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    path.write_text(json.dumps(content))
    command = ["merge", tmp_path / "out.json", path]
    assert "; --bad-objects leave_out leaves such objects out" in run(*command).stderr
    assert run(*command, "--bad-objects", "leave_out").exit_code == 0
    assert [a["id"] for a in json.loads((tmp_path / "out.json").read_text())["annotations"]] == [2]


def test_new_names_have_an_old_one(tmp_path):
    result = run("merge", tmp_path / "out.json", tmp_path / "in.json", "--rename", "car")
    assert result.exit_code == 2
    assert "expected a category's name and its new name, such as car=vehicle, got 'car'" in result.stderr


def test_the_parts_of_a_split_are_in_a_folder_that_is_not_called_like_a_file(shapes, tmp_path):
    result = run("split", tmp_path / "parts.json", "--annotations", shapes[1], "--parts", "train=0.75,val=0.25")
    assert result.stderr.startswith(f"error: {tmp_path / 'parts.json'}: expected a folder for the parts, which holds ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "parts.json").exists()
