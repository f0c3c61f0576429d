"""Weights of other categories: which rows of the last layers are kept, and what is said about it."""

import json

import pytest
import torch

from composer_copypaste import MaskRCNN, MaskRCNNSettings
from composer_copypaste.errors import CheckpointError, DataError
from composer_copypaste.models.predictor import COCO_NAMES

ROWS = {
    "roi_heads.box_predictor.cls_score.weight": 1,
    "roi_heads.box_predictor.cls_score.bias": 1,
    "roi_heads.box_predictor.bbox_pred.weight": 4,
    "roi_heads.box_predictor.bbox_pred.bias": 4,
    "roi_heads.mask_predictor.mask_fcn_logits.weight": 1,
    "roi_heads.mask_predictor.mask_fcn_logits.bias": 1,
}
COCO = [name for name in COCO_NAMES[1:] if name != "N/A"]


def detector(classes, folder, name="weights.pth"):
    """The tensors of a small detector with this number of classes, which are in a file too; and the file's path."""
    torch.manual_seed(classes)
    state = MaskRCNN(classes, backbone="small").module.state_dict()
    torch.save(state, folder / name)
    return state, str(folder / name)


def load(names, file, **settings):
    torch.manual_seed(99)
    return MaskRCNN(len(names) + 1, backbone="small", weights=file, category_names=names, **settings)


def assert_rows(model, state, pairs):
    """Each class of the model has the rows of the class of the weights that ``pairs`` gives; None: of none."""
    loaded = model.module.state_dict()
    for name, count in ROWS.items():
        for own, other in pairs.items():
            rows = loaded[name][own * count : (own + 1) * count]
            if other is None:
                assert not any(torch.equal(rows, rows_of) for rows_of in state[name].split(count)), (name, own)
            else:
                assert torch.equal(rows, state[name][other * count : (other + 1) * count]), (name, own)


def test_cocos_91_rows_become_80_contiguous_ones(tmp_path):
    state, file = detector(91, tmp_path)
    model = load(COCO, file, keep_categories=True)

    assert len(COCO) == 80
    assert_rows(model, state, {0: 0, **{own: COCO_NAMES.index(name) for own, name in enumerate(COCO, start=1)}})
    assert model.loaded[1:] == [
        "last layers: kept the rows of the background and of 80 of 80 categories, which the weights have by the same "
        "name: person, bicycle, car, motorcycle, airplane and 75 more"
    ]


def test_rows_of_categories_of_the_same_name_are_kept_and_the_others_start_at_random(tmp_path, caplog):
    state, file = detector(91, tmp_path)
    model = load(["unicorn", "Dog", "person"], file, keep_categories=True)

    assert_rows(model, state, {0: 0, 1: None, 2: COCO_NAMES.index("dog"), 3: COCO_NAMES.index("person")})
    assert all(torch.equal(model.module.state_dict()[name], state[name]) for name in state if name not in ROWS)
    assert model.loaded == [
        f"the detector, {len(state)} tensors",
        "last layers: kept the rows of the background and of 2 of 3 categories, which the weights have by the same "
        "name: Dog, person",
        "last layers: 1 category starts at random, as the weights have none of that name: unicorn",
        "last layers: the weights' rows of 78 other categories are not used: bicycle, car, motorcycle, airplane, bus "
        "and 73 more",
    ]
    assert not caplog.records


def test_the_names_are_those_of_the_run_in_whose_folder_the_weights_are(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    state, file = detector(4, tmp_path / "checkpoints", "latest-rank0.pt")
    (tmp_path / "recipe.yaml").touch()
    categories = [{"id": id_, "name": name} for id_, name in ((5, "fig"), (7, "nut"), (9, "date"))]
    (tmp_path / "categories.json").write_text(json.dumps(categories))

    assert_rows(load(["date", "fig"], file, keep_categories=True), state, {0: 0, 1: 3, 2: 1})


def test_the_names_are_those_of_a_given_file(tmp_path):
    state, file = detector(3, tmp_path)
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"categories": [{"id": 8, "name": "nut"}, {"id": 2, "name": "fig"}]}))

    assert_rows(load(["nut"], file, keep_categories=True, weights_categories=str(names)), state, {0: 0, 1: 2})


def test_weights_of_as_many_other_categories_are_loaded_as_they_are_and_it_is_said(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    state, file = detector(3, tmp_path / "checkpoints")
    (tmp_path / "recipe.yaml").touch()
    (tmp_path / "categories.json").write_text(json.dumps([{"id": 1, "name": "fig"}, {"id": 2, "name": "nut"}]))
    model = load(["nut", "fig"], file)

    assert_rows(model, state, {0: 0, 1: 1, 2: 2})
    assert model.loaded[1] == (
        "last layers: rows are those of other categories: nut has those of fig, fig has those of nut; "
        "model.keep_categories=true goes by name"
    )
    assert len(load(["fig", "nut"], file).loaded) == 1


def test_weights_of_another_number_of_categories_leave_the_last_layers_at_random_and_say_how_to_keep_rows(tmp_path):
    state, file = detector(91, tmp_path)
    model = load(["dog", "person"], file)

    assert_rows(model, state, {0: None, 1: None, 2: None})
    assert model.loaded == [
        f"the detector, {len(state) - len(ROWS)} tensors",
        "last layers: made for 91 classes, start at random; model.keep_categories=true keeps rows",
    ]


def test_weights_whose_categories_nothing_names_need_a_file_of_them(tmp_path):
    _, file = detector(3, tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing says what the 2 labels of .*model\.weights_categories=FILE$"):
        load(["nut"], file, keep_categories=True)


def test_a_file_of_another_number_of_categories_is_refused(tmp_path):
    _, file = detector(3, tmp_path)
    names = tmp_path / "names.json"
    names.write_text(
        json.dumps({"categories": [{"id": 2, "name": "fig"}, {"id": 8, "name": "nut"}, {"id": 9, "name": "x"}]})
    )
    with pytest.raises(CheckpointError, match="the weights have 2 labels, it has 3 categories"):
        load(["nut"], file, keep_categories=True, weights_categories=str(names))
    names.write_text("[")
    with pytest.raises(DataError, match=r"names\.json"):
        load(["nut"], file, keep_categories=True, weights_categories=str(names))


def test_rows_are_kept_of_detectors_only(tmp_path):
    torch.save(MaskRCNN(3, backbone="small").module.backbone.body.state_dict(), tmp_path / "body.pth")
    with pytest.raises(CheckpointError, match="keep_categories: expected the weights of a detector"):
        load(["nut"], str(tmp_path / "body.pth"), keep_categories=True)
    with pytest.raises(ValueError, match="keep_categories: expected False without weights"):
        MaskRCNNSettings(keep_categories=True)
    with pytest.raises(ValueError, match="weights_categories: expected None without keep_categories"):
        MaskRCNNSettings(weights="coco", weights_categories="names.json")
