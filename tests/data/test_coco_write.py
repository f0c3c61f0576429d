"""Writing COCO files."""

import json

import pytest

from composer_copypaste.data.coco_write import write_coco
from composer_copypaste.errors import DataError


def test_what_is_written_is_read_back(tmp_path):
    content = {
        "annotations": [{"id": 1, "area": 2.5, "attributes": {"ripe": True}}, {"id": 2}],
        "images": [],
        "videos": None,
        "info": {"description": "nüts, \ud800"},
    }
    write_coco(tmp_path / "new.json", content)
    assert json.loads((tmp_path / "new.json").read_text(encoding="ascii")) == content


def test_each_entry_has_a_line_of_its_own(tmp_path):
    write_coco(tmp_path / "new.json", {"images": [{"id": 3}, {"id": 4}], "info": {}})
    assert (tmp_path / "new.json").read_text().splitlines()[1:] == [
        '"info": {},',
        '"images": [',
        '{"id":3},',
        '{"id":4}',
        "]",
        "}",
    ]


def test_a_value_that_json_cannot_say_is_an_error_and_leaves_the_former_file(tmp_path):
    (tmp_path / "new.json").write_text("{}")
    with pytest.raises(DataError, match=r"new\.json: cannot be written as JSON: .*"):
        write_coco(tmp_path / "new.json", {"images": [{"id": 1, "score": float("nan")}]})
    assert [path.name for path in tmp_path.iterdir()] == ["new.json"]
    assert (tmp_path / "new.json").read_text() == "{}"
