"""The promises of ``CopyPaste``, each in a bare ``Trainer`` on the CPU."""

import warnings

import numpy as np
import pytest
import torch
from composer import Event
from composer.loggers import InMemoryLogger
from composer.utils import dist
from toy_trainings import (
    IMAGES,
    Toy,
    Watcher,
    as_list,
    as_pair,
    as_semantic,
    checksum,
    checksums,
    fit,
    loader,
    make_image,
    of_two_sizes,
    pasted_in,
    targets_of,
    unsplit,
)

from composer_copypaste import CopyPaste, CopyPasteSettings, MaskRCNN
from composer_copypaste.functional.copypaste import NothingPastedWarning


def test_a_mask_rcnn_trains_on_what_was_pasted():
    log = InMemoryLogger()
    model = MaskRCNN(num_classes=3, backbone="small", resize_training=False)
    before = model.module.roi_heads.box_predictor.cls_score.weight.clone()
    fit(CopyPaste(p=1.0), model=model, duration="2ba", loggers=[log])
    assert not torch.equal(before, model.module.roi_heads.box_predictor.cls_score.weight)
    losses = [float(value) for _, value in log.data["loss/train/total"]]
    assert len(losses) == 2
    assert torch.tensor(losses).isfinite().all()


def test_the_batch_changes_between_the_data_loader_and_the_first_look_of_a_callback():
    watcher = Watcher()
    fit(CopyPaste(p=1.0), callbacks=[watcher], duration="1ba")
    changed = {event: checksum(batch) for event, batch in watcher.batches.items()}
    assert changed[Event.BATCH_START] == changed[Event.BATCH_END] == changed[Event.AFTER_DATALOADER]
    assert changed[Event.AFTER_DATALOADER] != checksum(next(iter(loader().dataloader)))


def test_it_answers_to_no_other_event():
    events = []

    class Noted(CopyPaste):
        def apply(self, event, state, logger):
            events.append(event)

    fit(Noted(), eval_dataloader=loader(), duration="2ba")
    assert events == [Event.INIT, Event.AFTER_DATALOADER, Event.AFTER_DATALOADER]  # at INIT it only counts its kind


@pytest.mark.parametrize(("size", "count"), [(1, 8), (2, 4), (3, 4)])
def test_what_an_image_receives_does_not_depend_on_the_microbatch(size, count):
    whole, parts = (fit(CopyPaste(p=1.0), device_train_microbatch_size=size, duration="2ba").seen for size in (4, size))
    assert (len(whole), len(parts)) == (2, count)
    whole_images = torch.cat([images for images, _ in whole])
    assert torch.equal(whole_images, torch.cat([images for images, _ in parts]))
    targets = ([target for _, part in batches for target in part] for batches in (whole, parts))
    for one, other in zip(*targets, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_objects_come_from_other_images_than_those_of_the_microbatch():
    assert sum(map(pasted_in, fit(CopyPaste(p=1.0), device_train_microbatch_size=1).seen)) > 0


def test_a_run_repeats_itself_with_the_seed_of_the_trainer():
    assert checksums(fit(CopyPaste())) == checksums(fit(CopyPaste()))


def test_another_seed_of_the_trainer_pastes_something_else():
    first, other = checksums(fit(CopyPaste(p=1.0), seed=5)), checksums(fit(CopyPaste(p=1.0), seed=6))
    assert all(one != another for one, another in zip(first, other, strict=True))


def test_its_own_seed_wins_over_that_of_the_trainer():
    first, other = fit(CopyPaste(seed=1, p=1.0), seed=5), fit(CopyPaste(seed=1, p=1.0), seed=6)
    assert checksums(first) == checksums(other)
    assert checksums(first) != checksums(fit(CopyPaste(seed=2, p=1.0), seed=5))


def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(tmp_path):
    uninterrupted = checksums(fit(CopyPaste(p=1.0), duration="6ba"))
    start = fit(CopyPaste(p=1.0), duration="3ba", save_folder=str(tmp_path), save_latest_filename="latest.pt")
    # as Composer restores the seed, the resuming trainer need not be told it
    rest = fit(CopyPaste(p=1.0), duration="6ba", load_path=str(tmp_path / "latest.pt"), seed=None)
    resumed = checksums(rest)[-3:]
    assert checksums(start) + resumed == uninterrupted
    assert len(set(uninterrupted)) == 6


def test_a_resumed_run_remembers_what_an_uninterrupted_one_does(tmp_path):
    settings = {"p": 1.0, "p_instance": 1.0, "bank_size": 5}
    uninterrupted = checksums(fit(CopyPaste(**settings), batches=loader(batch_size=1), duration="6ba"))
    save = {"save_folder": str(tmp_path), "save_latest_filename": "latest.pt"}
    start = fit(CopyPaste(**settings), batches=loader(batch_size=1), duration="3ba", **save)
    load = {"load_path": str(tmp_path / "latest.pt"), "seed": None}
    rest = fit(CopyPaste(**settings), batches=loader(batch_size=1), duration="6ba", **load)
    assert checksums(start) + checksums(rest) == uninterrupted
    assert sum(map(pasted_in, rest.seen)) > 0
    forgetful = fit(Forgetful(**settings), batches=loader(batch_size=1), duration="6ba", **load)
    assert checksums(forgetful) != checksums(rest)


class Forgetful(CopyPaste):
    """What a checkpoint holds of the bank is not read."""

    def load_state_dict(self, state):
        pass


Forgetful.__qualname__ = "CopyPaste"  # under which Composer stores the state


def test_a_checkpoint_holds_the_banks_of_all_ranks_and_each_takes_its_own(monkeypatch):
    algorithms = [CopyPaste(p=1.0, seed=1, bank_size=5 + rank) for rank in range(2)]
    for rank, algorithm in enumerate(algorithms):
        fit(algorithm, batches=loader(batch_size=rank + 1), duration="2ba")
    states = [algorithm.bank.state_dict() for algorithm in algorithms]
    monkeypatch.setattr(dist, "all_gather_object", lambda own: states)
    saved = algorithms[0].state_dict()
    for rank, expected in enumerate([4, 6, 4]):  # of a third rank nothing was saved
        monkeypatch.setattr(dist, "get_global_rank", lambda rank=rank: rank)
        again = CopyPaste(bank_size=6)
        again.load_state_dict(saved)
        assert len(again.bank) == expected


def test_a_checkpoint_of_a_run_without_a_bank_leaves_the_bank_empty():
    algorithm = CopyPaste(bank_size=6)
    algorithm.load_state_dict(CopyPaste().state_dict())
    assert len(algorithm.bank) == 0


def test_a_batch_of_one_image_receives_what_the_bank_remembers():
    log = InMemoryLogger()
    settings = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "bank_size": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error", NothingPastedWarning)
        model = fit(CopyPaste(**settings), batches=loader(batch_size=1), loggers=[log])
    assert [pasted_in(batch) > 0 for batch in model.seen] == [False, True, True, True]
    assert [value for _, value in log.data["copy_paste/bank_objects"]] == [2, 3, 3, 3]
    pixels, crops = 1e-6 * (3 + 1), [18 * 18, 12 * 16]  # the two squares with a margin of one pixel
    rows = 2 * (16 + 8 + 4 + 8) * 1e-6  # boxes, labels, area and iscrowd
    assert log.data["copy_paste/bank_megabytes"][0][1] == pytest.approx(pixels * sum(crops) + rows)


class White:
    """A pool of one cut-out, a white square."""

    labels, image_pixels, boxes = np.array([9]), np.array([36]), np.array([[0.0, 0.0, 6.0, 6.0]])

    def read(self, number):
        return torch.full((3, 6, 6), 255, dtype=torch.uint8), torch.ones(6, 6, dtype=torch.uint8)


def test_images_receive_cut_outs_of_a_pool():
    settings = {"p": 1.0, "p_pool": 1.0, "pool_scale_range": (1.0, 1.0), "pool_instances": (1, 1)}
    model = fit(CopyPaste(pool=White(), **settings), batches=loader(batch_size=1))
    for images, (target,) in model.seen:
        (white,) = target["masks"][target["labels"] == 9]
        assert white.sum() == 36
        assert (images[0, :, white.bool()] == 255).all()


def test_a_pool_of_which_nothing_may_be_copied_is_refused_at_once():
    with pytest.raises(ValueError, match=r"^pool: none of its 1 cut-out may be copied"):
        CopyPaste(pool=White(), labels=(1,))


def test_the_same_images_receive_something_else_at_every_step():
    seen = checksums(fit(CopyPaste(p=1.0), batches=loader(batch_size=IMAGES), duration="5ba"))
    assert len(set(seen)) == 5


def test_ranks_paste_differently(monkeypatch):
    alone = checksums(fit(CopyPaste(p=1.0, seed=1)))
    monkeypatch.setattr(dist, "get_global_rank", lambda: 1)
    other = checksums(fit(CopyPaste(p=1.0, seed=1)))
    assert all(one != another for one, another in zip(alone, other, strict=True))


def as_dict(samples):
    images, targets = as_pair(samples)
    return {"pixels": images, "truth": targets, "names": [f"{i}.png" for i in range(len(samples))]}


def test_batches_that_are_dicts_are_read_by_key_and_keep_the_rest():
    batches = loader(collate=as_dict, split=unsplit, count=lambda batch: len(batch["truth"]))
    model = fit(CopyPaste(p=1.0, input_key="pixels", target_key="truth"), batches=batches)
    assert sum(pasted_in((batch["pixels"], batch["truth"])) for batch in model.seen) > 0
    assert model.seen[0]["names"] == ["0.png", "1.png", "2.png", "3.png"]
    pairs = fit(CopyPaste(p=1.0)).seen
    assert [checksum((batch["pixels"], batch["truth"])) for batch in model.seen] == [checksum(pair) for pair in pairs]


def test_a_batch_that_is_a_list_stays_one():
    model = fit(CopyPaste(p=1.0), batches=loader(collate=as_list, split=unsplit, count=targets_of))
    assert type(model.seen[0]) is list
    assert checksums(model) == checksums(fit(CopyPaste(p=1.0)))


def test_images_of_several_sizes_stay_a_list_with_their_sizes():
    batch = fit(CopyPaste(p=1.0), batches=loader(collate=of_two_sizes), duration="1ba").seen[0]
    assert [tuple(image.shape) for image in batch[0]] == [(3, 64, 64), (3, 72, 72)] * 2
    assert pasted_in(batch) > 0


def test_class_id_maps_follow_the_colors_that_are_pasted():
    batches = loader(collate=as_semantic, batch_size=IMAGES, split=unsplit, count=targets_of)
    images, ids = fit(CopyPaste(p=1.0, scale_range=(1.0, 1.0)), batches=batches, duration="1ba").seen[0]
    _, before = as_semantic([make_image(number) for number in range(IMAGES)])
    assert ids.dtype == torch.int64
    assert not torch.equal(ids, before)
    own = torch.arange(IMAGES, dtype=torch.uint8)[:, None, None] * 20
    foreign = (images[:, 0] != own) & (images[:, 0] != own + 100)
    assert foreign.any()
    assert (ids[foreign] > 0).all()


def as_floats(samples):
    images, targets = as_pair(samples)
    return images.float() / 255, targets


@pytest.mark.parametrize(("collate", "dtype"), [(as_pair, torch.uint8), (as_floats, torch.float32)])
def test_images_keep_their_dtype(collate, dtype):
    batch = fit(CopyPaste(p=1.0), batches=loader(collate=collate), duration="1ba").seen[0]
    assert batch[0].dtype == dtype
    assert pasted_in(batch) > 0


def test_pasted_objects_are_the_last_of_their_target_and_flagged():
    batch = fit(CopyPaste(p=1.0, scale_range=(1.0, 1.0)), duration="1ba").seen[0]
    assert pasted_in(batch) > 0
    for number, (image, target) in enumerate(zip(*batch, strict=True)):
        flags = target["pasted"]
        assert flags.dtype == torch.bool
        assert flags.tolist() == sorted(flags.tolist())
        for mask, pasted in zip(target["masks"], flags, strict=True):
            (color,) = image[0][mask.bool()].unique().tolist()
            assert color in {20 * source + 100 for source in range(4)}
            assert (color != 20 * number + 100) == pasted


def test_its_numbers_are_logged_for_every_batch():
    log = InMemoryLogger()
    model = fit(CopyPaste(p=1.0, scale_range=(1.0, 1.0)), loggers=[log])
    numbers = {name: [value for _, value in rows] for name, rows in log.data.items() if name.startswith("copy_paste/")}
    counts = [pasted_in(batch) for batch in model.seen]
    assert numbers["copy_paste/instances_per_image"] == [count / 4 for count in counts]
    shares = [sum(bool(target["pasted"].any()) for target in targets) / 4 for _, targets in model.seen]
    assert numbers["copy_paste/share_of_images"] == shares
    assert numbers["copy_paste/skipped"] == [0] * 4
    assert all(seconds > 0 for seconds in numbers["copy_paste/seconds"])


@pytest.mark.parametrize(
    ("batches", "reason"),
    [
        (loader(batch_size=1), "a batch of one image"),
        (loader(crowds=True), "none of the batch's 8 objects may be copied"),
    ],
    ids=["one image", "crowds only"],
)
def test_a_batch_that_nothing_can_be_pasted_into_is_counted_and_said_once(batches, reason):
    log = InMemoryLogger()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # as libraries that change the filters make Python forget what it has said
        fit(CopyPaste(), batches=batches, loggers=[log])
    said = [str(warning.message) for warning in caught if warning.category is NothingPastedWarning]
    assert len(said) == 1
    assert reason in said[0]
    assert [value for _, value in log.data["copy_paste/skipped"]] == [1] * 4


def test_evaluation_sees_the_images_as_they_are():
    model = Toy()
    fit(CopyPaste(p=1.0), model=model, eval_dataloader=loader(), eval_interval="2ba", duration="2ba")
    untouched = [checksum(batch) for batch in loader().dataloader]
    assert [checksum(batch) for batch in model.evaluated] == untouched
    assert checksums(model) != untouched


def test_its_repr_names_the_settings():
    assert "max_copied_instances=3" in repr(CopyPaste(max_copied_instances=3))
    assert "seed=9" in repr(CopyPaste(seed=9))


def test_settings_by_name_come_on_top_of_given_ones():
    algorithm = CopyPaste(CopyPasteSettings(p=0.25, rotation=30.0), p=0.75)
    assert algorithm.settings == CopyPasteSettings(p=0.75, rotation=30.0)


def test_an_unknown_setting_is_a_type_error_that_names_it():
    with pytest.raises(TypeError, match="max_instances"):
        CopyPaste(max_instances=3)


def test_a_setting_out_of_its_limits_is_refused_at_once():
    with pytest.raises(ValueError, match=r"p: expected at most 1, got 2\.0"):
        CopyPaste(p=2.0)


def test_a_trainer_with_two_of_it_is_refused_before_it_trains():
    model = Toy()
    with pytest.raises(ValueError, match="expected CopyPaste once, got it 2 times"):
        fit(CopyPaste(), CopyPaste(p=1.0), model=model)
    assert model.seen == []
