"""Rows of Hugging Face's Datasets, and labels that models of Transformers train on; `make test-core` installs both."""

from io import BytesIO
from itertools import pairwise

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image

from composer_copypaste import copypaste_batch
from composer_copypaste.errors import DataError
from composer_copypaste.integrations.hugging_face import detr_labels, mask2former_labels, sample_from_row

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
    image, target = sample_from_row(given)
    assert torch.equal(image, torch.from_numpy(np.array(given["image"])).permute(2, 0, 1))
    assert target["boxes"].tolist() == [[10, 8, 30, 28], [40, 30, 48, 36]]
    assert target["labels"].tolist() == [1, 4]
    assert target["area"].tolist() == [400, 48]
    assert int(target["image_id"]) == 3
    expected = torch.zeros((2, HEIGHT, WIDTH), dtype=torch.uint8)
    expected[0, 8:28, 10:30], expected[1, 30:36, 40:48] = 1, 1
    assert torch.equal(target["masks"], expected)


def test_outlines_may_be_one_polygon_or_run_lengths():
    whole = sample_from_row(row(0))[1]["masks"][0]
    flat = whole.T.flatten().tolist()  # column by column
    ends = [0, *(k for k in range(1, len(flat)) if flat[k] != flat[k - 1]), len(flat)]
    counts = [end - begin for begin, end in pairwise(ends)]
    outlines = [SQUARE, {"size": [HEIGHT, WIDTH], "counts": counts}]
    masks = sample_from_row(row(0, segmentation=outlines))[1]["masks"]
    assert torch.equal(masks[0], whole)
    assert torch.equal(masks[1], whole)


def test_rows_without_outlines_have_boxes_alone_and_rows_without_objects_are_empty():
    given = row(0)
    del given["objects"]["segmentation"]
    assert "masks" not in sample_from_row(given)[1]
    empty = {key: [] for key in given["objects"]}
    assert sample_from_row({**given, "objects": empty})[1]["boxes"].shape == (0, 4)


def of_objects(given):
    """The same row with a dict for each object, as data sets have it whose features are no ``Sequence``."""
    columns = given["objects"]
    return given | {"objects": [{key: columns[key][k] for key in columns} for k in range(len(columns["bbox"]))]}


def test_a_list_of_dicts_is_read_as_a_dict_of_lists_is():
    expected, target = (sample_from_row(each)[1] for each in (row(1), of_objects(row(1))))
    assert target.keys() == expected.keys()
    assert all(torch.equal(target[key], expected[key]) for key in expected)
    assert sample_from_row(row(1) | {"objects": []})[1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_rows_in_the_formats_numpy_and_torch_are_read_as_plain_ones(kind):
    plain = row(1)
    columns = {key: kind(plain["objects"][key]) for key in plain["objects"]}
    image = np.array(plain["image"])
    given = {"image": image if kind is np.array else torch.tensor(image).permute(2, 0, 1), "objects": columns}
    (image, target), (expected_image, expected) = sample_from_row(given), sample_from_row(plain)
    assert torch.equal(image, expected_image)
    assert all(torch.equal(target[key], expected[key]) for key in ("boxes", "labels", "area", "masks"))


def stored(image, orientation, kind="PNG"):
    file, exif = BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1)])
def test_an_image_that_is_not_decoded_is_read_and_turned_as_it_is_shown(orientation, turns, tmp_path):
    given = row(0, bbox=[[10.0, 8.0, 20.0, 20.0]], category=[0], area=[400], segmentation=[[SQUARE]])
    content = stored(given["image"], orientation)
    (tmp_path / "photo.png").write_bytes(content)
    expected = torch.from_numpy(np.rot90(np.array(given["image"]), turns).copy()).permute(2, 0, 1)
    for image in ({"bytes": content, "path": None}, {"bytes": None, "path": str(tmp_path / "photo.png")}):
        assert torch.equal(sample_from_row(given | {"image": image})[0], expected)


def test_values_of_16_bits_are_scaled_and_not_clipped():
    file = BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH), 32896, dtype=np.uint16)).save(file, "PNG")
    image, _ = sample_from_row(row(0) | {"image": {"bytes": file.getvalue(), "path": None}})
    assert image.shape == (3, HEIGHT, WIDTH)
    assert (image == 128).all()
    with pytest.raises(DataError, match=r"image: has more than 8 bits \(mode I;16\).*Image\(decode=False\)"):
        sample_from_row(row(0) | {"image": Image.open(file)})


def test_boxes_are_cut_at_the_images_edge_and_widened_to_their_masks():
    outline = [50.0, 40.0, 70.0, 40.0, 70.0, 60.0, 50.0, 60.0]
    given = row(0, bbox=[[12.0, 8.0, 18.0, 20.0], [50.0, 40.0, 20.0, 20.0]], segmentation=[[SQUARE], [outline]])
    assert sample_from_row(given)[1]["boxes"].tolist() == [[10, 8, 30, 28], [50, 40, WIDTH, HEIGHT]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": None}, r"row: expected a column 'objects' with the lists 'bbox' and 'category', got columns"),
        ({"objects": "x"}, r"row: .* got columns \['objects'\], where 'objects' is of type str"),
        ({"image": None, "objects": {"bbox": []}}, r"row: objects: expected a list 'category'"),
        (row(4, category=[0, -1]), r"row of image_id 4: .*category: expected classes from first_class=0 on, got -1"),
        (row(4, category=["cat", "dog"]), r'row of image_id 4: objects: category: expected the number .* got "cat" '),
        (row(4, category=[0, 1.5]), r"category: expected the number of a class, got 1.5 for object 1: put"),
        (row(4, bbox=[[10, 8, 20, 20]]), r"got 1 in 'bbox' and 2 in 'category': mend or leave out this row"),
        (row(4, segmentation=[]), r"got 2 in 'bbox' and 0 in 'segmentation'"),
        (row(4, area=None), r"objects: area: expected a list with an entry for each object, got null: .* remove"),
        (row(4, area=[400, None]), r"objects: object 1: area is null: give its value"),
        (row(4, area=[400, float("nan")]), r"objects: object 1: area is NaN, expected a number of pixels"),
        (row(4, iscrowd=[0, 2]), r"objects: object 1: iscrowd is 2, expected 0 or 1"),
        (
            row(4, bbox=[[10, 8, 20, 20], [64, 8, 9, 9]]),
            r"object 1: box \[64, 8, 9, 9\] lies outside the image, ",
        ),
        (row(4, bbox=[[10, 8, 20, 20], [4, 8, 9]]), r"object 1: box \[4, 8, 9\] is not 4 numbers"),
        (row(4, bbox=[[10, 8, 20, 20], [4, 8, 0, 9]]), r"object 1: box \[4, 8, 0, 9\] has no area"),
        (row(4, segmentation=[[SQUARE], None]), r"object 1: has no segmentation: .*: mend or leave out the object"),
        (row(4, segmentation=[[SQUARE], [1, 2, 3]]), r"object 1: polygon has 3 numbers, needs at least 6"),
        (row(4, segmentation=[[SQUARE], {"counts": [7]}]), r"object 1: mask's counts sum to 7 pixels"),
        (row(4) | {"objects": [{"bbox": [1, 2, 3, 4], "category": 1}, {"bbox": [1, 2, 3, 4]}]}, r"for object 1: give"),
        (
            row(4) | {"objects": [[1, 2, 3, 4]]},
            r"a list with a dict for each object, got \[1, 2, 3, 4\] in",
        ),
        (
            row(4) | {"image": None},
            r"row of image_id 4: image: expected an image of PIL, .*, got null: cast",
        ),
        (row(4) | {"image": "a.png"}, r'image: expected .*, got "a.png" \(text\): cast .*datasets.Image\(\)'),
        (row(4) | {"image": np.zeros((HEIGHT, WIDTH))}, r"got one of shape \(48, 64\) and type float64: cast"),
        (row(4) | {"image": {"bytes": b"no", "path": "a.png"}}, r"image_id 4: a.png: the image cannot be decoded: not"),
        (row(4) | {"image_id": "a"}, r'row of image_id "a" \(text\): image_id: expected a whole number'),
    ],
)
def test_rows_of_another_form_are_refused_with_what_was_expected(given, message):
    with pytest.raises(DataError, match=message) as caught:
        sample_from_row(given)
    assert "\n" not in str(caught.value)


@pytest.fixture
def unchecked_types():
    """Without the check of annotated types, which only tests have, and which would come first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_types")
def test_labels_of_other_arguments_are_refused_with_how_they_are_called():
    image, target = sample_from_row(row(0))
    boxes = {key: target[key] for key in ("boxes", "labels")}
    how = r"call detr_labels\(images, targets\)"
    for images, targets, message in [
        ([target], [image], r"images\[0\]: expected a tensor \(c, h, w\), got a dict: " + how),
        ([image], [image], r"targets\[0\]: expected a dict with 'boxes' and 'labels', got a Tensor: " + how),
        ([image] * 2, [target, {"boxes": None}], r"targets\[1\]: expected 'boxes' and 'labels', got \['boxes'\]: "),
        ([image] * 2, [target], "expected a target for each image, got 2 images and 1 target: give both of one batch"),
    ]:
        with pytest.raises(DataError, match=message):
            detr_labels(images, targets)
    message = r"targets\[1\]: expected 'masks' and 'labels', got \['boxes', 'labels'\]: these models learn masks"
    with pytest.raises(DataError, match=message):
        mask2former_labels([target, boxes])
    assert detr_labels([image], [boxes])[0].keys() == {"class_labels", "boxes"}


def pasted():
    images, targets = zip(*(sample_from_row(row(k)) for k in range(2)), strict=True)
    generator = torch.Generator().manual_seed(1)
    return copypaste_batch(list(images), list(targets), p=1.0, p_instance=1.0, generator=generator)


def test_detr_labels_are_fractions_of_the_image_and_count_classes_from_0():
    images, targets = pasted()
    for target, label in zip(targets, detr_labels(images, targets), strict=True):
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
    samples = [sample_from_row(each) for each in read["train"]]
    assert all(torch.equal(image, sample_from_row(row(k))[0]) for k, (image, _) in enumerate(samples))
    images, targets = copypaste_batch([i for i, _ in samples], [t for _, t in samples], p=1.0, p_instance=1.0)
    pixels = torch.stack(list(images)).float() / 255

    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1],
                                         out_features=["stage4"])  # fmt: skip
    config = transformers.DetrConfig(use_timm_backbone=False, backbone_config=backbone, d_model=16, encoder_layers=1,
                                     decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
                                     encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=20, num_labels=4)  # fmt: skip
    torch.manual_seed(0)
    detr = transformers.DetrForObjectDetection(config)
    loss = detr(pixel_values=pixels, labels=detr_labels(images, targets)).loss
    assert torch.isfinite(loss)

    swin = transformers.SwinConfig(embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
                                   out_features=["stage1", "stage2", "stage3", "stage4"])  # fmt: skip
    config = transformers.Mask2FormerConfig(backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=16,
                                            encoder_layers=1, decoder_layers=2, num_attention_heads=2, num_queries=10,
                                            encoder_feedforward_dim=16, dim_feedforward=16, num_labels=4)  # fmt: skip
    model = transformers.Mask2FormerForUniversalSegmentation(config)
    loss = model(pixel_values=pixels, **mask2former_labels(targets)).loss
    loss.backward()
    assert torch.isfinite(loss)
