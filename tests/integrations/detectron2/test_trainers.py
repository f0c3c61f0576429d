"""Copy-paste and large-scale jitter as hooks of Detectron2's trainers, with a model that keeps what it is given."""

import os
import signal
import warnings
from itertools import cycle

import numpy as np
import pytest
import torch
import toy_trainings
from composer.utils import dist
from detectron2.checkpoint import Checkpointer
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.engine import SimpleTrainer, TrainerBase, hooks
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import JSONWriter
from forked_runs import killed_in_a_child, leave_process_group
from hooked_trainings import Seen, fields_of, made_batches, same_batches, train
from torch import distributed, multiprocessing
from torch.nn.parallel import DistributedDataParallel

from composer_copypaste import CopyPaste, LargeScaleJitter
from composer_copypaste.errors import DataError, RecipeError, UserError
from composer_copypaste.functional.copypaste import NothingPastedWarning
from composer_copypaste.integrations.detectron2.batches import images_and_targets
from composer_copypaste.integrations.detectron2.hooks import BatchHook
from composer_copypaste.integrations.detectron2.trainers import CopyPasteHook, LargeScaleJitterHook


def objects(batch):
    return [len(entry["instances"]) for entry in batch]


def test_the_model_gets_what_was_pasted():
    [batch] = train(CopyPasteHook(p=1.0, seed=5), iterations=1).batches
    before = next(made_batches())
    assert objects(batch) != objects(before) == [2] * 4
    assert not same_batches([batch], [before])


def test_the_loaders_batch_stays_as_it_is():
    before = next(made_batches())
    train(CopyPasteHook(p=1.0, seed=5), iterations=1, batches=[before])
    assert same_batches([before], [next(made_batches())])


@pytest.mark.parametrize("jitters", [False, True])
def test_seed_and_iteration_give_what_they_give_in_composer(jitters):
    algorithms, own = [CopyPaste(p=0.8, jitter="instance")], [CopyPasteHook(p=0.8, jitter="instance", seed=5)]
    if jitters:
        algorithms.insert(0, LargeScaleJitter(size=(48, 80)))
        own.append(LargeScaleJitterHook(size=(48, 80), seed=5))
    composers = toy_trainings.fit(*algorithms).seen
    for batch, (images, targets) in zip(train(*own).batches, composers, strict=True):
        found_images, found = images_and_targets(batch)
        assert torch.equal(torch.stack(found_images), images)
        for one, other in zip(found, targets, strict=True):
            assert one["boxes"].tolist() == other["boxes"].tolist()
            assert one["labels"].tolist() == other["labels"].tolist()
            assert torch.equal(one["masks"], other["masks"].bool())


def test_another_seed_pastes_otherwise():
    one, other = (train(CopyPasteHook(p=1.0, seed=seed)).batches for seed in (5, 6))
    assert not same_batches(one, other)


def test_the_seed_is_the_configurations_or_torchs_where_none_is_given(monkeypatch):
    class Cfg:
        SEED = 5

    with_seed = train(CopyPasteHook(p=1.0, seed=5)).batches
    torch.manual_seed(5)
    assert same_batches(train(CopyPasteHook(p=1.0)).batches, with_seed)
    torch.manual_seed(6)
    assert not same_batches(train(CopyPasteHook(p=1.0)).batches, with_seed)
    monkeypatch.setattr(SimpleTrainer, "cfg", Cfg, raising=False)
    assert same_batches(train(CopyPasteHook(p=1.0)).batches, with_seed)


def test_random_numbers_of_others_are_not_used_up():
    drawn = []
    for hooks_of_training in ([], [CopyPasteHook(p=1.0)]):
        seed_all_rng(4)
        train(*hooks_of_training)
        drawn.append((torch.rand(()).item(), np.random.rand()))  # noqa: NPY002 - what Detectron2's loaders draw from
    assert drawn[0] == drawn[1]


def trained_as_rank(rank, folder):
    """Train as one of two processes; keeps what the model was given."""
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    model = Seen()
    train(CopyPasteHook(p=1.0, seed=5), model=model, wrapped=DistributedDataParallel)
    torch.save([[fields_of(entry) for entry in batch] for batch in model.batches], folder / f"{rank}.pt")
    leave_process_group()


def test_processes_of_a_distributed_training_paste_each_their_own(tmp_path, monkeypatch):
    multiprocessing.start_processes(trained_as_rank, (tmp_path,), nprocs=2, daemon=True, start_method="forkserver")
    for rank in (0, 1):
        monkeypatch.setattr(dist, "get_global_rank", lambda rank=rank: rank)
        composers = toy_trainings.fit(CopyPaste(p=1.0)).seen
        for batch, (images, targets) in zip(torch.load(tmp_path / f"{rank}.pt"), composers, strict=True):
            for (image, boxes, *_), expected, target in zip(batch, images, targets, strict=True):
                assert torch.equal(image.flip(0), expected)
                assert torch.equal(boxes, target["boxes"])


def test_batches_of_evaluations_are_not_changed():
    evaluated, model = [], Seen()

    def evaluate():
        batch = next(made_batches())
        with torch.no_grad():
            model.eval()(batch)
        evaluated.append(model.batches.pop())
        model.train()
        return {}

    train(CopyPasteHook(p=1.0, seed=5), hooks.EvalHook(2, evaluate), model=model)
    assert same_batches(evaluated, [next(made_batches())] * 2)
    assert same_batches(model.batches, train(CopyPasteHook(p=1.0, seed=5)).batches)


def test_a_hook_that_does_not_paste_passes_the_loaders_batches_on():
    batch = next(made_batches())
    model = train(CopyPasteHook(p=0.0), batches=[batch], iterations=1)
    assert model.batches[0] is batch


def test_p_follows_the_iterations():
    used = []

    class Noted(CopyPasteHook):
        def p(self, iteration):
            used.append(super().p(iteration))
            return used[-1]

    batches = train(Noted(p=0.8, warmup="4ba", stop="0.9dur", seed=5), iterations=10).batches
    assert used == [0.0, 0.2, 0.4, 0.6000000000000001, *[0.8] * 5, 0.0]
    pasted = [sum(objects(batch)) > 8 for batch in batches]
    assert not pasted[0]
    assert not pasted[9]
    assert any(pasted)


def test_times_in_epochs_are_refused():
    with pytest.raises(RecipeError, match=r"^stop: .* know no epochs, got '2ep'; '500ba' is 500 iterations"):
        CopyPasteHook(stop="2ep")


def test_jitter_gives_every_image_one_size_and_copy_paste_then_resizes_nothing():
    size = (48, 80)
    batches = train(CopyPasteHook(p=1.0, seed=5), LargeScaleJitterHook(size=size, seed=5)).batches
    assert {tuple(entry["image"].shape[1:]) for batch in batches for entry in batch} == {size}
    assert {entry["instances"].image_size for batch in batches for entry in batch} == {size}
    resized = train(CopyPasteHook(p=1.0, seed=5, scale_range=(0.1, 2)), LargeScaleJitterHook(size=size, seed=5)).batches
    assert not same_batches(batches, resized)


def test_padding_is_imagenets_mean_in_the_order_of_the_loaders_colors():
    options = {"size": (64, 128), "scale_range": (1, 1), "seed": 5}
    for image_format, expected in (("BGR", [104, 116, 124]), ("RGB", [124, 116, 104])):
        [batch] = train(LargeScaleJitterHook(**options, image_format=image_format), iterations=1).batches
        assert batch[0]["image"][:, 0, -1].tolist() == expected


def test_the_models_order_of_colors_counts_where_none_is_given():
    model = Seen()
    model.input_format = "RGB"
    [batch] = train(LargeScaleJitterHook(size=(64, 128), scale_range=(1, 1)), model=model, iterations=1).batches
    assert batch[0]["image"][:, 0, -1].tolist() == [124, 116, 104]


def failing(message):
    """A loader whose data cannot be read."""
    raise ValueError(message)
    yield


def test_run_lengths_where_the_loader_expects_polygons_are_named_with_the_setting():
    with pytest.raises(ValueError) as caught:
        annotations_to_instances(
            [{"bbox": [0, 0, 1, 1], "bbox_mode": 0, "category_id": 0, "segmentation": {"counts": b"", "size": [1, 1]}}],
            (1, 1),
        )
    said = f"Caught ValueError in DataLoader worker process 0.\n{caught.value}"
    with pytest.raises(DataError, match=r'run lengths, .* set INPUT.MASK_FORMAT to "bitmask"'):
        train(CopyPasteHook(), batches=failing(said))
    with pytest.raises(ValueError, match=r"^something else$"):
        train(CopyPasteHook(), batches=failing("something else"))


def of_polygons():
    """Two images, each a batch's: of one polygon, and of none, as Detectron2's loader makes them by default."""
    square = [np.array([10.0, 10, 30, 10, 30, 30, 10, 30])]
    instances = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[10.0, 10, 30, 30]])))
    instances.gt_classes, instances.gt_masks = torch.tensor([3]), PolygonMasks([square])
    empty = Instances((64, 48), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64))
    colors = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [{"image": colors, "instances": instances}, {"image": colors[:, :, :48] * 0, "instances": empty}]


def test_an_image_without_objects_receives_bit_masks_and_others_keep_their_polygons():
    batch = of_polygons()
    hook = CopyPasteHook(p=1.0, seed=0, scale_range=(1, 1), p_flip=0, p_instance=1)
    [(one, other)] = train(hook, iterations=1, batches=[batch]).batches
    assert one["instances"] is batch[0]["instances"]
    assert isinstance(other["instances"].gt_masks, BitMasks)
    mask = torch.zeros(64, 48, dtype=torch.bool)
    mask[10:30, 10:30] = True
    assert torch.equal(other["instances"].gt_masks.tensor, mask[None])
    assert other["instances"].gt_classes.tolist() == [3]
    assert torch.equal(other["image"][:, mask], batch[0]["image"][:, :, :48][:, mask])


def test_a_batch_without_objects_receives_those_of_the_bank_with_masks():
    with_objects, empty = next(made_batches()), [of_polygons()[1]]
    hook = CopyPasteHook(p=1.0, seed=0, bank_size=9, scale_range=(1, 1))
    batches = train(hook, batches=iter([with_objects, *[empty] * 9]), iterations=10).batches[1:]
    assert sum(map(sum, map(objects, batches))) > 0
    assert all(batch[0]["instances"].has("gt_masks") for batch in batches if objects(batch) != [0])


def test_a_batch_without_objects_passes_where_those_of_the_bank_have_further_fields():
    with_fields, empty = next(made_batches()), [of_polygons()[1]]
    for entry in with_fields:
        entry["instances"].gt_numbers = torch.arange(2)
    hook = CopyPasteHook(p=1.0, seed=0, bank_size=9)
    [_, after] = train(hook, batches=iter([with_fields, empty]), iterations=2).batches
    assert after is empty


def test_fields_follow_their_objects():
    batch = next(made_batches())
    for i, entry in enumerate(batch):
        numbers = torch.arange(2) + 10 * i
        entry["instances"].gt_numbers, entry["instances"].words = numbers, list(map(str, numbers.tolist()))
        entry["instances"].gt_classes = numbers
    [after] = train(CopyPasteHook(p=1.0, seed=5), iterations=1, batches=[batch]).batches
    assert sum(objects(after)) > 8
    for entry in after:
        expected = entry["instances"].gt_classes.tolist()
        assert entry["instances"].gt_numbers.tolist() == expected
        assert entry["instances"].words == list(map(str, expected))


def test_each_batch_of_an_iteration_is_drawn_anew():
    class TwoBatches(SimpleTrainer):
        def run_step(self):
            super().run_step()
            super().run_step()

    model = Seen()
    trainer = TwoBatches(model, cycle([next(made_batches())]), torch.optim.SGD(model.parameters(), lr=0.01))
    trainer.register_hooks([CopyPasteHook(p=1.0, seed=5)])
    trainer.train(0, 2)
    assert len(model.batches) == 4
    first = train(CopyPasteHook(p=1.0, seed=5), iterations=1).batches
    assert same_batches(model.batches[:1], first)
    assert not any(same_batches([model.batches[i]], [model.batches[j]]) for i in range(4) for j in range(i))


def test_a_loader_that_takes_the_place_of_the_first_is_pasted_too():
    class Replaced(hooks.HookBase):
        def after_step(self):
            self.trainer.reset_data_loader(lambda: made_batches(1 + self.trainer.iter))

    assert same_batches(train(CopyPasteHook(seed=5), Replaced()).batches, train(CopyPasteHook(seed=5)).batches)


def test_two_trainings_in_a_row_paste_once():
    model, hook = Seen(), CopyPasteHook(p=1.0, seed=5)
    trainer = SimpleTrainer(model, made_batches(), torch.optim.SGD(model.parameters(), lr=0.01))
    trainer.register_hooks([hook])
    trainer.train(0, 2)
    trainer.train(2, 4)
    assert same_batches(model.batches, train(CopyPasteHook(p=1.0, seed=5)).batches)


def checkpointed(folder, *added, stop=4):
    """The batches of a training that saves a checkpoint after each iteration, and goes on with the last."""
    model = Seen()
    folder.mkdir(exist_ok=True)
    trainer = SimpleTrainer(model, made_batches(), torch.optim.SGD(model.parameters(), lr=0.01))
    checkpointer = Checkpointer(model, str(folder), trainer=trainer)
    trainer.register_hooks([*added, hooks.PeriodicCheckpointer(checkpointer, 1)])
    checkpointer.resume_or_load("", resume=True)
    start = trainer.iter + 1 if checkpointer.has_checkpoint() else 0
    trainer.reset_data_loader(lambda: made_batches(start))
    trainer.train(start, stop)
    return model


class Killed(hooks.HookBase):
    """Kills the process after the third step, before its checkpoint is written."""

    def after_step(self):
        if self.trainer.iter == 2:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("settings", [{}, {"bank_size": 9}])
def test_a_killed_training_goes_on_as_one_that_was_not_stopped(tmp_path, settings):
    whole = checkpointed(tmp_path / "whole", CopyPasteHook(p=1.0, seed=5, **settings))
    killed_in_a_child(lambda: checkpointed(tmp_path / "parts", CopyPasteHook(p=1.0, seed=5, **settings), Killed()))
    resumed = checkpointed(tmp_path / "parts", CopyPasteHook(p=1.0, seed=5, **settings))
    assert same_batches(whole.batches[2:], resumed.batches)
    assert torch.equal(whole.weight, resumed.weight)


def test_a_seed_that_was_not_given_is_kept_by_the_checkpoint(tmp_path):
    torch.manual_seed(7)
    checkpointed(tmp_path, CopyPasteHook(p=1.0), stop=2)
    torch.manual_seed(8)
    resumed = checkpointed(tmp_path, CopyPasteHook(p=1.0))
    assert same_batches(resumed.batches, train(CopyPasteHook(p=1.0, seed=7), start=2, iterations=2).batches)


def test_what_was_pasted_is_logged(tmp_path):
    writer = hooks.PeriodicWriter([JSONWriter(str(tmp_path / "metrics.json"))], period=1)
    batches = train(CopyPasteHook(p=1.0, seed=5), writer, iterations=1).batches
    text = (tmp_path / "metrics.json").read_text()
    added = sum(objects(batches[0])) - 8  # nothing is hidden wholly
    assert f'"copy_paste/instances_per_image": {added / 4}' in text
    assert '"copy_paste/p": 1.0' in text


def test_a_second_hook_is_refused():
    with pytest.raises(ValueError, match=r"expected CopyPasteHook once, .* would paste what the first pasted"):
        train(CopyPasteHook(), CopyPasteHook())


def test_a_trainer_without_a_loader_is_named():
    trainer = TrainerBase()
    trainer.register_hooks([CopyPasteHook(seed=1)])
    with pytest.raises(UserError, match=r"expected a DefaultTrainer, SimpleTrainer or AMPTrainer .*, got TrainerBase"):
        trainer.train(0, 1)


def test_lists_are_refused_where_objects_of_a_bank_lack_them():
    batch = next(made_batches())
    for entry in batch:
        entry["instances"].words = ["a", "b"]
    with pytest.raises(DataError, match="objects of bank and pool have no 'words'"):
        train(CopyPasteHook(bank_size=9), batches=[batch])


def test_batches_of_one_image_are_told_once_that_they_lack_a_source():
    single = [batch[:1] for batch, _ in zip(made_batches(), range(4), strict=False)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NothingPastedWarning)
        train(CopyPasteHook(p=1.0), batches=single)
    assert ["a batch of one image has no other image" in str(each.message) for each in caught] == [True]


def test_arguments_out_of_their_limits_are_refused():
    for hook in (CopyPasteHook, LargeScaleJitterHook):
        with pytest.raises(ValueError, match=r"^seed: expected a whole number, 0 or more, .* got -1"):
            hook(seed=-1)
    with pytest.raises(ValueError, match=r"^image_format: expected 'BGR', 'RGB' or None .*, got 'bgr'"):
        BatchHook(None, "bgr")


def test_jitter_refuses_images_whose_colors_are_not_uint8():
    batch = next(made_batches())
    batch[0]["image"] = batch[0]["image"].float()
    with pytest.raises(DataError, match=r"batch\[0\]: large-scale jitter expects uint8 images, got torch.float32"):
        train(LargeScaleJitterHook(size=(64, 64)), batches=[batch])
