"""Rows of Hugging Face's Datasets, and labels that models of Transformers train on; `make test-core` installs both."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from composer_copypaste import copypaste_batch
from composer_copypaste.errors import DataError
from composer_copypaste.integrations.hugging_face import labels_of_detr, labels_of_mask2former, sample_of_row

WIDTH, HEIGHT = 64, 48
SQUARE = [10.0, 8.0, 30.0, 8.0, 30.0, 28.0, 10.0, 28.0]


def row(number, **changes):
    pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    objects = {
        "id": [7, 8],
        "bbox": [[10.0, 8.0, 20.0, 20.0], [40.0, 30.0, 8.0, 6.0]],
        "category": [0, 3],
        "area": [400.0, 48.0],
        "segmentation": [[SQUARE], [[40.0, 30.0, 48.0, 30.0, 48.0, 36.0, 40.0, 36.0]]],
    }
    return {"image_id": number, "image": Image.fromarray(pixels), "objects": objects | changes}


def test_a_row_becomes_an_image_and_a_target():
    given = row(3)
    image, target = sample_of_row(given)
    assert torch.equal(image, torch.from_numpy(np.array(given["image"])).permute(2, 0, 1))
    assert target["boxes"].tolist() == [[10, 8, 30, 28], [40, 30, 48, 36]]
    assert target["labels"].tolist() == [1, 4]
    assert target["area"].tolist() == [400, 48]
    assert int(target["image_id"]) == 3
    expected = torch.zeros((2, HEIGHT, WIDTH), dtype=torch.uint8)
    expected[0, 8:28, 10:30], expected[1, 30:36, 40:48] = 1, 1
    assert torch.equal(target["masks"], expected)


def test_outlines_may_be_one_polygon_or_run_lengths():
    whole = sample_of_row(row(0))[1]["masks"][0]
    flat = whole.T.flatten().tolist()  # column by column
    ends = [0, *(k for k in range(1, len(flat)) if flat[k] != flat[k - 1]), len(flat)]
    counts = [end - begin for begin, end in pairwise(ends)]
    outlines = [SQUARE, {"size": [HEIGHT, WIDTH], "counts": counts}]
    masks = sample_of_row(row(0, segmentation=outlines))[1]["masks"]
    assert torch.equal(masks[0], whole)
    assert torch.equal(masks[1], whole)


def test_rows_without_outlines_have_boxes_alone_and_rows_without_objects_are_empty():
    given = row(0)
    del given["objects"]["segmentation"]
    assert "masks" not in sample_of_row(given)[1]
    empty = {key: [] for key in given["objects"]}
    assert sample_of_row({**given, "objects": empty})[1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": None}, r"row: expected a column 'objects' with the lists 'bbox' and 'category', got columns"),
        ({"image": None, "objects": {"bbox": []}}, r"row: objects: expected a list 'category'"),
        (row(0, category=[0, -1]), r"row: objects: expected classes from first_class=0 on, got -1"),
    ],
)
def test_rows_of_another_form_are_refused_with_what_was_expected(given, message):
    with pytest.raises(DataError, match=message):
        sample_of_row(given)


def pasted():
    images, targets = zip(*(sample_of_row(row(k)) for k in range(2)), strict=True)
    generator = torch.Generator().manual_seed(1)
    return copypaste_batch(list(images), list(targets), p=1.0, p_instance=1.0, generator=generator)


def test_labels_of_detr_are_fractions_of_the_image_and_count_classes_from_0():
    images, targets = pasted()
    for target, label in zip(targets, labels_of_detr(images, targets), strict=True):
        x1, y1, x2, y2 = target["boxes"].T
        expected = torch.stack(
            [(x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT], 1
        )
        assert torch.allclose(label["boxes"], expected)
        assert torch.equal(label["class_labels"], target["labels"] - 1)
        assert torch.equal(label["masks"], target["masks"].float())


def test_rows_of_a_parquet_file_train_models_of_transformers(tmp_path):
    datasets, transformers = pytest.importorskip("datasets"), pytest.importorskip("transformers")
    data = datasets.Dataset.from_list([row(k) for k in range(2)])
    data.to_parquet(tmp_path / "train.parquet")
    read = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "train.parquet"), cache_dir=str(tmp_path / "cache")
    )
    samples = [sample_of_row(each) for each in read["train"]]
    assert all(torch.equal(image, sample_of_row(row(k))[0]) for k, (image, _) in enumerate(samples))
    images, targets = copypaste_batch([i for i, _ in samples], [t for _, t in samples], p=1.0, p_instance=1.0)
    pixels = torch.stack(list(images)).float() / 255

    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1],
                                         out_features=["stage4"])  # fmt: skip
    config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, d_model=16, encoder_layers=1,
                                     decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                                     encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=20, num_labels=4)  # fmt: skip
    torch.manual_seed(0)
    detr = transformers.DetrForObjectDetection(config)
    loss = detr(pixel_values=pixels, labels=labels_of_detr(images, targets)).loss
    assert torch.isfinite(loss)

    swin = transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
                                   out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    config = transformers.Mask2FormerConfig(backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=16,
                                            encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=10,
                                            encoder_feedforward_dim=16, dim_feedforward=16, num_labels=4)  # fmt: skip
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    loss = model(pixel_values=pixels, **labels_of_mask2former(targets)).loss
    loss.backward()
    assert torch.isfinite(loss)
