"""``copypaste info`` as its users meet it."""

import json

from click.testing import CliRunner

from composer_copypaste.cli import main


def info(*arguments):
    return CliRunner().invoke(main, ["info", *map(str, arguments)])


def write_data_set(path, **changes):
    square = [0, 0, 10, 0, 10, 10, 0, 10]
    one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "iscrowd": 0, "segmentation": [square]}
    image = {"id": 1, "file_name": "a.png", "width": 20, "height": 20}
    path.write_text(
        json.dumps({"images": [image], "annotations": [one | changes], "categories": [{"id": 1, "name": "nut"}]})
    )
    return path


def test_facts_tables_and_problems_are_printed(tmp_path):
    result = info(write_data_set(tmp_path / "a.json", category_id=2))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'a.json'}: a COCO data set\n")
    assert "1 problem\n  annotation 1 (image 1): category 2 is not among the file's categories" in result.stdout


def test_an_empty_list_is_said_to_hold_nothing(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    result = info(tmp_path / "a.json")
    assert result.exit_code == 0
    assert "the list is empty: results in which nothing was found; a data set would be no list" in result.stdout


def test_json_is_all_that_is_printed_and_the_plot_is_named_beside_it(tmp_path):
    result = info(write_data_set(tmp_path / "a.json"), "--json", "--output", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["tables"]["categories"][0]["objects"] == 1
    assert result.stderr.strip() == str(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_of_no_known_kind_is_refused_in_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    result = info(tmp_path / "a.txt")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
