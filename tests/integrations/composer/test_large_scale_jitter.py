"""The promises of ``LargeScaleJitter``, each in a bare ``Trainer`` on the CPU."""

from unittest import mock

import pytest
import torch
from composer import Trainer
from composer.core import State, Timestamp
from composer.loggers import InMemoryLogger
from toy_trainings import (
    Toy,
    as_semantic,
    checksum,
    checksums,
    fit,
    loader,
    of_two_sizes,
    pasted_in,
    targets_of,
    unsplit,
)

from composer_copypaste import CopyPaste, LargeScaleJitter, LargeScaleJitterSettings, MaskRCNN
from composer_copypaste.functional.generators import JITTER_STREAM
from composer_copypaste.integrations.composer.algorithms import current_batch_generator, without_second_jitter
from composer_copypaste.recipes.load import load_recipe, recipe_to_yaml
from composer_copypaste.settings import CopyPasteSettings

CANVAS = {"size": (48, 40)}
AS_IT_IS = {"size": (64, 64), "scale_range": (1.0, 1.0), "p_flip": 0.0}


def test_images_of_several_sizes_become_one_tensor_and_targets_follow():
    images, targets = fit(LargeScaleJitter(**CANVAS), batches=loader(collate=of_two_sizes), duration="1ba").seen[0]
    assert (tuple(images.shape), images.dtype) == ((4, 3, 48, 40), torch.uint8)
    for target in targets:
        assert target["masks"].shape[1:] == (48, 40)
        areas = target["masks"].sum((1, 2))
        assert (areas > 0).all()
        assert (areas <= (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(1)).all()
    assert "area" not in targets[0]  # the loader gives none


def test_a_mask_rcnn_trains_on_it_with_copy_paste():
    log = InMemoryLogger()
    model = MaskRCNN(num_classes=3, backbone="small", resize_training=False)
    algorithms = (LargeScaleJitter(size=(64, 64)), CopyPaste(p=1.0))
    fit(*algorithms, model=model, batches=loader(collate=of_two_sizes), duration="2ba", loggers=[log])
    losses = torch.tensor([float(value) for _, value in log.data["loss/train/total"]])
    assert losses.shape == (2,)
    assert losses.isfinite().all()
    assert all(seconds > 0 for _, seconds in log.data["large_scale_jitter/seconds"])


@pytest.mark.parametrize("order", [1, -1])
def test_it_runs_before_copy_paste_in_whatever_order_they_are_listed(order):
    algorithms = [LargeScaleJitter(**CANVAS, seed=1), CopyPaste(p=1.0, p_instance=1.0, seed=1)][::order]
    seen = fit(*algorithms, batches=loader(collate=of_two_sizes)).seen
    assert all(isinstance(images, torch.Tensor) for images, _ in seen)  # pasted on images of the canvas's size
    assert sum(map(pasted_in, seen)) > 0
    assert checksums(fit(*algorithms[::-1], batches=loader(collate=of_two_sizes))) == [checksum(b) for b in seen]


def test_copy_paste_after_it_keeps_size_and_place():
    algorithms = LargeScaleJitter(**AS_IT_IS), CopyPaste(p=1.0, p_instance=1.0)
    for images, targets in fit(*algorithms).seen:
        own = {tuple(box) for _, target in loader().dataloader for t in target for box in t["boxes"].tolist()}
        pasted = [box for target in targets for box in target["boxes"][target["pasted"]].tolist()]
        assert pasted
        assert own.issuperset(map(tuple, pasted))
        assert images.shape == (4, 3, 64, 64)


def test_copy_paste_alone_does_jitter():
    for _, targets in fit(CopyPaste(p=1.0, p_instance=1.0), duration="1ba").seen:
        own = {tuple(box) for _, target in loader().dataloader for t in target for box in t["boxes"].tolist()}
        assert not own.issuperset(tuple(box) for t in targets for box in t["boxes"][t["pasted"]].tolist())


@pytest.mark.parametrize(
    ("given", "scale_range", "p_flip"),
    [
        ({}, (1, 1), 0),
        ({"scale_range": (0.8, 1.25)}, (0.8, 1.25), 0),
        ({"scale_range": (0.1, 2.0)}, (0.1, 2.0), 0),  # as it would be without
        ({"p_flip": 0.5}, (1, 1), 0.5),
        ({"p_flip": 0.25}, (1, 1), 0.25),
        ({"rotation": 20.0}, (1, 1), 0),
    ],
)
def test_of_copy_pastes_jitter_what_is_not_given_is_left_out(given, scale_range, p_flip):
    settings = without_second_jitter(CopyPasteSettings(**given), [CopyPaste(), LargeScaleJitter()])
    assert (settings.scale_range, settings.p_flip) == (scale_range, p_flip)
    assert settings.rotation == given.get("rotation", 0)


def test_a_recipe_that_gives_copy_pastes_jitter_keeps_it_beside_large_scale_jitter(tmp_path):
    overrides = ["data.jitter={size: [64, 64]}", "data.jitter_on=device", "copy_paste.scale_range=[0.1, 2.0]"]
    (tmp_path / "saved.yaml").write_text(recipe_to_yaml(load_recipe("quickstart", overrides)))
    settings = load_recipe(tmp_path / "saved.yaml").copy_paste
    after = without_second_jitter(settings, [CopyPaste(settings), LargeScaleJitter()])
    assert (after.scale_range, after.p_flip) == ((0.1, 2.0), 0)


def test_class_id_maps_follow():
    batches = loader(collate=as_semantic, split=unsplit, count=targets_of)
    images, ids = fit(LargeScaleJitter(**CANVAS, scale_range=(0.5, 0.5)), batches=batches, duration="1ba").seen[0]
    assert (ids.shape, ids.dtype) == ((4, 48, 40), torch.int64)
    assert (ids[:, 20:] == 255).all()  # 64 pixels shown as half of what fits 40 are 20
    assert (ids[:, :20, :20] < 3).all()
    shown, ids = images[:, 0, :20, :20].float(), ids[:, :20, :20]
    assert all(image[i == 2].mean() - image[i == 0].mean() > 60 for image, i in zip(shown, ids, strict=True))


def test_a_run_repeats_itself_and_another_seed_does_not():
    first, again, other = (checksums(fit(LargeScaleJitter(**CANVAS), seed=seed)) for seed in (5, 5, 6))
    assert first == again
    assert all(one != another for one, another in zip(first, other, strict=True))
    assert len(set(first)) == 4


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(tmp_path):
    algorithms = [LargeScaleJitter(**CANVAS), CopyPaste(p=1.0)]
    uninterrupted = checksums(fit(*algorithms, duration="6ba"))
    start = fit(*algorithms, duration="3ba", save_folder=str(tmp_path), save_latest_filename="latest.pt")
    rest = fit(*algorithms, duration="6ba", load_path=str(tmp_path / "latest.pt"), seed=None)
    assert checksums(start) + checksums(rest)[-3:] == uninterrupted


def test_what_it_draws_is_not_what_copy_paste_draws():
    state = mock.Mock(spec=State, rank_zero_seed=3, timestamp=Timestamp(batch=7))
    own, jitters = current_batch_generator(state, None), current_batch_generator(state, None, JITTER_STREAM)
    assert own.initial_seed() != jitters.initial_seed()


def test_evaluation_sees_the_images_as_they_are():
    model = Toy()
    fit(LargeScaleJitter(**CANVAS), model=model, eval_dataloader=loader(), eval_interval="1ba", duration="1ba")
    assert [checksum(batch) for batch in model.evaluated] == [checksum(batch) for batch in loader().dataloader]


def test_batches_that_are_dicts_are_read_by_key():
    def as_dict(samples):
        images, targets = of_two_sizes(samples)
        return {"pixels": images, "truth": targets}

    batches = loader(collate=as_dict, split=unsplit, count=lambda batch: len(batch["truth"]))
    model = fit(LargeScaleJitter(**CANVAS, input_key="pixels", target_key="truth"), batches=batches, duration="1ba")
    assert model.seen[0]["pixels"].shape == (4, 3, 48, 40)


def test_a_trainer_with_two_of_it_is_refused_before_it_trains():
    with pytest.raises(ValueError, match="expected LargeScaleJitter once, got it 2 times: each would resize"):
        fit(LargeScaleJitter(), LargeScaleJitter())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"place_key": "road", "placement": "random"}, "^place_key: LargeScaleJitter resizes and crops the images"),
        ({"source": "self", "p_flip": 0.0}, '^source: with "self" every copy would lie exactly on its original'),
    ],
)
def test_settings_of_copy_paste_that_do_not_go_with_it_are_refused_before_it_trains(settings, message):
    with pytest.raises(ValueError, match=message):
        Trainer(model=Toy(), max_duration="1ba", algorithms=[LargeScaleJitter(), CopyPaste(**settings)], device="cpu")


def test_settings_by_name_come_on_top_of_given_ones():
    algorithm = LargeScaleJitter(LargeScaleJitterSettings(size=(64, 64), p_flip=0.0), p_flip=1.0, seed=9)
    assert algorithm.settings == LargeScaleJitterSettings(size=(64, 64), p_flip=1.0)
    assert "size=(64, 64)" in repr(algorithm)
    assert "seed=9" in repr(algorithm)


@pytest.mark.parametrize(("given", "error"), [({"p_flip": 2.0}, "p_flip: expected at most 1"), ({"sise": 1}, "sise")])
def test_a_wrong_setting_is_refused_at_once(given, error):
    with pytest.raises((ValueError, TypeError), match=error):
        LargeScaleJitter(**given)
