"""Files of other formats that are given in place of COCO annotations."""

import pytest

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.errors import DataError

KINDS = {
    b"": "an empty file",
    b"PK\x03\x04rest": "a zip archive",
    b"\x1f\x8brest": "compressed with gzip",
    b"version https://git-lfs.github.com/spec/v1\noid": "a Git LFS pointer",
    b'{"image": 1}\n{"image": 2}\n': "JSON Lines",
    b"<!DOCTYPE html><html>": "a web page",
    b"<annotation><folder>": "XML of one image, as Pascal VOC has it",
    b"0 0.5 0.5 0.1 0.2\n1 0.1 0.1 0.1 0.1\n": "as YOLO has it",
    b"\x89PNG\r\n": "an image (PNG)",
    b'[{"image_id": 1, "category_id": 1, "bbox": [], "score": 0.5}]': "a list of COCO results",
    b'[{"image": "a.png", "id": 1, "annotator": 1, "annotation_id": 2, "lead_time": 3.1}]': "Label Studio's export",
    b'[{"id": 1, "data": {}, "annotations": []}]': "Label Studio's export",
    b'{"id": 1, "data": {}, "annotations": [{"result": []}]}': "Label Studio's export",
    b"/annex/objects/MD5-s12--0123": "a git-annex pointer",
    b'{"shapes": [], "imagePath": "a.png", "version": "5"}': "labelme's file of one image",
    b'{"version": "2.0", "item": {"name": "a.png"}, "annotations": []}': "V7 Darwin's JSON of one image",
    b'{"metadata": {"name": "a.png"}, "instances": [], "tags": []}': "SuperAnnotate's JSON of one image",
    b'{"description": "", "tags": [], "size": {"height": 48, "width": 64}, "objects": []}': "Supervisely's JSON",
    b'{"name": "v1", "dataset": {"samples": []}}': "a release of Segments.ai",
    b'{"a.png1": {"filename": "a.png", "regions": []}}': "VGG Image Annotator",
    b'{"type": "FeatureCollection", "features": []}': "GeoJSON, whose places are on the globe",
    b'{"images": [], "categories": []}': "without the list 'annotations'",
    b'{"images": [1], "categories": [1], "annotations": [{"segments_info": []}]}': "COCO panoptic annotations",
    b'{"images": [1], "categories": [], "annotations": [{"caption": "a"}]}': "COCO captions",
}


@pytest.mark.parametrize("content", KINDS, ids=KINDS.values())
def test_a_file_that_is_something_else_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "annotations.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        CocoAnnotations.load(path)
    problem = str(caught.value)
    assert KINDS[content] in problem
    assert "\n" not in problem
