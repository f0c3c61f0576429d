"""Data to be evaluated on gets the labels of the data that is trained on."""

import json

import pytest

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.errors import DataError, DataWarning
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.runs.data import with_trained_labels

TRAINED = [Category(0, "ring"), Category(1, "blob")]


def data(tmp_path, categories, used):
    """An image with an object of each of the used category ids."""
    objects = [
        {"id": number, "image_id": 1, "category_id": id_, "segmentation": [[1, 1, 4, 1, 4, 4]]}
        for number, id_ in enumerate(used, start=1)
    ]
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 8, "width": 12}],
        "categories": [{"id": id_, "name": name} for id_, name in categories.items()],
        "annotations": objects,
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    return CocoInstances(tmp_path, tmp_path / "val.json")


def labels(matched):
    return matched.annotations.objects_of(matched.annotations.images[0]).labels.tolist()


def test_the_same_categories_stay(tmp_path, recwarn):
    same = data(tmp_path, {0: "ring", 1: "blob"}, [0, 1])
    assert with_trained_labels(same, TRAINED, "train.json") is same
    assert not recwarn.list


def test_categories_of_other_ids_are_matched_by_name_and_it_is_said(tmp_path):
    other = data(tmp_path, {0: "blob", 1: "ring"}, [0, 1])
    with pytest.warns(DataWarning, match='matched by name: 1 here is 0 there, "ring", 0 here is 1 there, "blob"$'):
        matched = with_trained_labels(other, TRAINED, "train.json")
    assert labels(matched) == [2, 1]
    assert labels(other) == [1, 2]
    metric = CocoMeanAveragePrecision(matched.annotations, category_ids=matched.annotations.category_ids)
    assert metric._reader.category_ids == (1, 0)


def test_data_may_lack_a_category_and_list_others_of_no_object(tmp_path):
    with pytest.warns(DataWarning, match='0 here is 1 there, "blob"; it lacks "ring"; it also has, .* "cube"$'):
        matched = with_trained_labels(data(tmp_path, {0: "blob", 7: "cube"}, [0]), TRAINED, "train.json")
    assert labels(matched) == [2]
    assert [category.name for category in matched.categories] == ["ring", "blob"]
    assert len(set(matched.annotations.category_ids)) == 2


@pytest.mark.parametrize(
    ("categories", "used", "got"),
    [
        ({0: "blob", 1: "cube"}, [0, 1], 'got objects of others: 1 "cube"$'),
        ({0: "cube"}, [0], 'got objects of others: 0 "cube"$'),
        ({0: "blob", 1: "ring", 2: "blob"}, [0], "; names that occur twice cannot be matched$"),
    ],
)
def test_categories_that_cannot_be_matched_are_refused(tmp_path, categories, used, got):
    with pytest.raises(DataError, match=rf'expected the categories of train\.json, 0 "ring", 1 "blob"; .*{got}'):
        with_trained_labels(data(tmp_path, categories, used), TRAINED, "train.json")


def test_categories_of_the_same_ids_are_not_called_different(tmp_path):
    with pytest.warns(DataWarning, match='they are matched by name; it lacks "blob"$'):
        with_trained_labels(data(tmp_path, {0: "ring"}, [0]), TRAINED, "train.json")
