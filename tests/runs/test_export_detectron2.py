"""The way back to Detectron2: a file .pkl of a model of its style, from Python and from the command line."""

import pytest
import torch
from click.testing import CliRunner
from small_runs import small_run

from composer_copypaste import MaskRCNN, export_detectron2
from composer_copypaste.cli import main
from composer_copypaste.errors import ExportError, OutputError
from composer_copypaste.models.detectron2_pickle import read_pickle
from composer_copypaste.models.weight_files import read_weights
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.runs.predictor import LoadedModel


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MaskRCNN(3, backbone="resnet18", style="detectron2", norm="frozen_batch", min_size=640)


def test_the_file_has_the_models_tensors_and_says_how_detectron2_builds_it(model, tmp_path):
    keys = export_detectron2(model, tmp_path / "m.pkl", categories=["disc", "star"])

    assert keys == {
        "config": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.ROI_HEADS.NUM_CLASSES": 2,
        "INPUT.MIN_SIZE_TEST": 640,
        "INPUT.MAX_SIZE_TEST": 1066,
    }
    content, own = read_pickle(tmp_path / "m.pkl"), model.module.state_dict()
    scores = content["model"]["roi_heads.box_predictor.cls_score.weight"]
    assert torch.equal(scores, own["roi_heads.box_predictor.cls_score.weight"][[1, 2, 0]])
    assert [category["name"] for category in content["categories"]] == ["disc", "star"]
    assert read_weights(tmp_path / "m.pkl").keys() == own.keys()


def test_a_model_of_another_style_or_normalisation_is_refused_and_nothing_is_written(tmp_path):
    for model, message in (
        (MaskRCNN(3, backbone="small"), r"m\.pkl: not written: expected a model of Detectron2's style"),
        (
            MaskRCNN(3, backbone="resnet18", style="detectron2", norm="group"),
            "expected normalisation 'frozen_batch' or",
        ),
    ):
        with pytest.raises(ExportError, match=message):
            export_detectron2(model, tmp_path / "m.pkl")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays(model, tmp_path):
    (tmp_path / "m.pkl").write_text("mine")
    with pytest.raises(OutputError, match="is there already"):
        export_detectron2(model, tmp_path / "m.pkl")
    assert (tmp_path / "m.pkl").read_text() == "mine"


def test_the_command_refuses_a_run_of_torchvisions_style_and_options_of_other_formats(tmp_path):
    run = small_run(tmp_path / "run")
    result = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "m.pkl")])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "expected a model of Detectron2's style (model.style=detectron2)" in result.stderr.splitlines()[-1]
    result = CliRunner().invoke(main, ["export", str(run), str(tmp_path / "m.pkl"), "--masks", "crops"])
    assert result.stderr.splitlines()[-1].endswith(
        "weights for Detectron2 have no masks, images and differences to give"
    )


def test_the_command_writes_a_file_and_prints_the_keys(model, tmp_path):
    export_detectron2(model, tmp_path / "one.pkl")
    result = CliRunner().invoke(main, ["export", str(tmp_path / "one.pkl"), str(tmp_path / "two.pkl")])

    assert result.exit_code == 0, result.output
    assert "MB; Detectron2 reads it with COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml " in result.stdout
    assert "MODEL.RESNETS.DEPTH 18 MODEL.RESNETS.RES2_OUT_CHANNELS 64 MODEL.ROI_HEADS.NUM_CLASSES 2" in result.stdout
    one, two = read_weights(tmp_path / "one.pkl"), read_weights(tmp_path / "two.pkl")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_of_detectron2s_own_model_is_refused_with_what_writes_it(model, tmp_path, monkeypatch):
    recipe = load_recipe("detectron2/finetune")
    loaded = LoadedModel(model.module, {}, recipe)
    monkeypatch.setattr("composer_copypaste.runs.export_detectron2.load_model", lambda *args, **options: loaded)
    (tmp_path / "run.pt").touch()
    result = CliRunner().invoke(main, ["export", str(tmp_path / "run.pt"), str(tmp_path / "m.pkl")])

    assert result.exit_code == 2
    assert "a model of Detectron2 itself, whose DetectionCheckpointer writes its weights" in result.stderr
    assert not (tmp_path / "m.pkl").exists()
