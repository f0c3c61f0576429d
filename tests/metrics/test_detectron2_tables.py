"""The numbers of an evaluation in Detectron2's tables; the real ones are compared with in integrations/detectron2."""

from composer_copypaste.metrics.detectron2_tables import detectron2_tables

NUMBERS = {"AP": 0.41, "AP50": 0.6, "AP75": 0.3, "APs": None, "APm": 0.123456, "APl": 1.0, "AR100": 0.5}


def report(*names):
    categories = {name: {"instances": 1, "AP": 0.5 + number / 100} for number, name in enumerate(names)}
    return {"images": 2, "max_dets": [1, 10, 100], "segm": {**NUMBERS, "per_category": categories}}


def test_numbers_are_in_percent_and_nan_without_truth():
    assert detectron2_tables(report("disc")) == (
        "Evaluation results for segm:\n"
        "|   AP   |  AP50  |  AP75  |  APs  |  APm   |   APl   |\n"
        "|:------:|:------:|:------:|:-----:|:------:|:-------:|\n"
        "| 41.000 | 60.000 | 30.000 |  nan  | 12.346 | 100.000 |\n"
        "\n"
        "copypaste: Task: segm\n"
        "copypaste: AP,AP50,AP75,APs,APm,APl\n"
        "copypaste: 41.0000,60.0000,30.0000,nan,12.3456,100.0000\n"
    )


def test_three_categories_share_a_row():
    table = detectron2_tables(report("disc", "star", "ring", "bar")).split("Per-category segm AP:\n")[1].splitlines()
    assert [cell.strip() for cell in table[0].split("|")[1:-1]] == ["category", "AP"] * 3
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:4]]
    assert rows == [["disc", "50.000", "star", "51.000", "ring", "52.000"], ["bar", "53.000", "", "", "", ""]]


def test_two_categories_have_a_table_and_one_has_none():
    assert detectron2_tables(report("disc", "star")).count("Per-category segm AP:") == 1
    assert "Per-category" not in detectron2_tables(report("disc"))
