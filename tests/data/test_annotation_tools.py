"""Which tool wrote a file, by files in the form that each tool writes; supervision's is written by supervision."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from composer_copypaste import describe_file
from composer_copypaste.data.annotation_tools import recognise_tool

SQUARE = [8.0, 8.0, 40.0, 8.0, 40.0, 40.0, 8.0, 40.0]
EMPTY_INFO = dict.fromkeys(["contributor", "date_created", "description", "url", "version", "year"], "")
IMAGE = {"id": 1, "width": 64, "height": 48, "file_name": "a.png"}
OBJECT = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "area": 1024.0, "bbox": [8, 8, 32, 32]}
CATEGORY = {"id": 1, "name": "ring", "supercategory": ""}


def file(*keys, image=IMAGE, entry=OBJECT, category=CATEGORY, **others):
    """A data set of one image and one object, with its lists, and those of ``others``, in the order of ``keys``."""
    content = {"images": [image], "annotations": [entry], "categories": [category], "licenses": [], **others}
    return {key: content[key] for key in keys or ("info", "images", "annotations", "categories")}


def in_order(entry, *keys):
    return {key: entry.get(key, 0) for key in keys}


SAHI = ("iscrowd", "image_id", "bbox", "segmentation", "category_id", "id", "area")
MAKE_SENSE = ("id", "iscrowd", "image_id", "category_id", "segmentation", "bbox", "area")
SAHI_IMAGE = in_order(IMAGE, "height", "width", "id", "file_name")
SUPERVISION_IMAGE = in_order(IMAGE, "id", "license", "file_name", "height", "width", "date_captured")
DATUMARO_IMAGE = {**IMAGE, "license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0}
KWCOCO = {"exterior": [[8, 8], [40, 8], [40, 40], [8, 40]], "interiors": []}

FILES = {
    "FiftyOne": file(info={"description": "Exported from FiftyOne", "url": "https://voxel51.com/fiftyone"}),
    "Roboflow": file(info={"year": "2026", "version": "1", "description": "Exported from roboflow.com"}),
    "V7 Darwin": file(info={"description": "Exported from Darwin", "url": "n/a", "version": "n/a"}),
    "Label Studio": file(info={"year": 2026, "version": "1.0", "contributor": "Label Studio"}),
    "Supervisely": file(info={"description": "COCO dataset converted from Supervisely", "contributor": "Supervisely"}),
    "SuperAnnotate": file(info={"description": "This is set dataset.", "contributor": "Superannotate AI"}),
    "X-AnyLabeling": file(info={"contributor": "CVHub", "url": "https://github.com/CVHub520/X-AnyLabeling"}),
    "VGG Image Annotator (VIA)": file(
        info={"description": "VIA project exported to COCO format using VGG Image Annotator (http://www.robots.ox.ac.uk"}
    ),
    "kwcoco": file(info=[], entry={**OBJECT, "segmentation": KWCOCO}),
    "Datumaro, with which CVAT writes too": file(
        "licenses", "info", "categories", "images", "annotations", info=EMPTY_INFO, image=DATUMARO_IMAGE
    ),
    "COCO Annotator": file(
        "images", "categories", "annotations", image={**IMAGE, "dataset_id": 1, "annotating": [], "annotated": True}
    ),
    "Segments.ai": file(
        info={"description": "", "version": "v1"}, category={"id": 1, "name": "ring", "color": None, "attributes": None}
    ),
    "Encord": file(
        info=dict.fromkeys(["description", "contributor", "url"]), image={**IMAGE, "coco_url": "", "image_title": "a"}
    ),
    "sahi, with which labelme2coco writes too": file(
        "images", "annotations", "categories",
        image=SAHI_IMAGE, entry=in_order(OBJECT, *SAHI),
    ),
    "makesense.ai": file(info={"description": "my-project"}, entry=in_order(OBJECT, *MAKE_SENSE)),
}  # fmt: skip


@pytest.mark.parametrize("tool", FILES)
def test_a_tool_is_named_where_its_file_says_so(tool, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(FILES[tool]))
    found = describe_file(path)
    assert found.facts["tool"] == tool
    assert found.facts["objects"] == 1
    assert next(iter(found.facts)) == "tool"


def test_a_file_that_supervision_has_written_is_recognised(tmp_path):
    supervision = pytest.importorskip("supervision")
    path = str(tmp_path / "a.png")
    Image.new("RGB", (64, 48)).save(path)
    mask = np.zeros((1, 48, 64), dtype=bool)
    mask[0, 8:40, 8:40] = True
    objects = supervision.Detections(np.array([[8.0, 8, 40, 40]]), mask=mask, class_id=np.array([0]))
    supervision.DetectionDataset(["ring"], [path], {path: objects}).as_coco(annotations_path=str(tmp_path / "a.json"))
    assert describe_file(tmp_path / "a.json").facts["tool"] == "supervision"


@pytest.mark.parametrize(
    "content",
    [
        file(info={"description": "COCO 2017 Dataset", "contributor": "COCO Consortium"}),
        file(info={"description": "a set of nuts"}),  # as makesense.ai, with keys in another order
        file("images", "annotations", "categories"),
        file("licenses", "info", "categories", "images", "annotations", info=EMPTY_INFO),
        file("info", "licenses", "categories", "images", "annotations", info={}),
        file("images", "categories", "annotations", image=SAHI_IMAGE, entry=in_order(OBJECT, *SAHI)),
        file("images", "annotations", "categories", image=SAHI_IMAGE, entry=in_order(OBJECT, *reversed(SAHI))),
        file("images", "annotations", "categories", image=IMAGE, entry=in_order(OBJECT, *SAHI)),
        file(info={"description": "my-project", "url": ""}, entry=in_order(OBJECT, *MAKE_SENSE)),
        file(info={"description": "my-project"}, entry=in_order(OBJECT, *reversed(MAKE_SENSE))),
        file("licenses", "info", "categories", "images", "annotations", info={}, image=DATUMARO_IMAGE),
        file(info=EMPTY_INFO, image=DATUMARO_IMAGE),
        file("licenses", "info", "categories", "images", "annotations", info=EMPTY_INFO, image=SAHI_IMAGE),
        file("info", "licenses", "categories", "images", "annotations", info={}, image=SUPERVISION_IMAGE),
        file(info={"description": "", "version": "v1"}),
        file(info=None) | {"images": "none", "categories": [1]},
        [],
        None,
    ],
)
def test_nothing_is_said_of_a_file_that_may_be_of_any_tool(content):
    assert recognise_tool(content) is None


def test_the_guide_has_a_row_for_each_tool_that_is_recognised():
    guide = (Path(__file__).parents[2] / "docs" / "annotation_tools.md").read_text()
    first = " ".join(line.split(" | ")[0] for line in guide.splitlines() if line.startswith("| "))
    names = " ".join(FILES).replace("with which", "").replace("writes too", "").replace(",", "").split()
    assert [name for name in [*names, "supervision"] if name not in first] == []


def test_images_without_annotations_name_their_tool_too(tmp_path):
    path = tmp_path / "test.json"
    path.write_text(json.dumps({"info": {"description": "Exported from roboflow.com"}, "images": [IMAGE]}))
    assert describe_file(path).facts["tool"] == "Roboflow"
