"""``CopyPasteCallback`` in a real ``Trainer`` of Lightning, which `make test-core` installs."""

import warnings

import pytest
import torch

try:
    import lightning.pytorch as pl
except ModuleNotFoundError:
    pl = pytest.importorskip("pytorch_lightning")

from composer_copypaste import CopyPasteSettings, copypaste_batch
from composer_copypaste.errors import DataError
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.generators import batch_generator
from composer_copypaste.integrations.lightning import CopyPasteCallback, _has_own_hook

BATCHES = 4


def batch(number):
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    masks = torch.zeros((2, 2, 32, 32), dtype=torch.uint8)
    masks[0, 0, 2:12, 2:12], masks[0, 1, 14:30, 6:20] = 1, 1
    masks[1, 0, 4:20, 10:28], masks[1, 1, 22:30, 2:10] = 1, 1
    boxes = torch.tensor([[[2, 2, 12, 12], [6, 14, 20, 30]], [[10, 4, 28, 20], [2, 22, 10, 30]]]).float()
    targets = [{"boxes": boxes[k], "labels": torch.tensor([1, 2]), "masks": masks[k]} for k in range(2)]
    return images, targets


class Recorder(pl.LightningModule):
    """Learns nothing, and keeps the batches that it gets."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained, self.validated, self.p = [], [], []

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] // 2 * 2, batch[1]]  # a list, and even colors: its own hook comes first

    def training_step(self, batch, batch_idx):
        self.trained.append(batch)
        return self.weight * 1.0

    def validation_step(self, batch, batch_idx):
        self.validated.append(batch)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.p.append(float(self.trainer.callback_metrics["copy_paste/p"]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(tmp_path, callback, *, epochs=1, checkpoint=None, steps=-1, module=None):
    loader = torch.utils.data.DataLoader([batch(k) for k in range(BATCHES)], batch_size=None)
    module = module or Recorder()
    trainer = pl.Trainer(
        default_root_dir=tmp_path, max_epochs=epochs, max_steps=steps, callbacks=[callback], accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders' processes
        trainer.fit(module, loader, loader, ckpt_path=checkpoint)
    return module, trainer


def evened(number):
    images, targets = batch(number)
    return images // 2 * 2, targets


def assert_same(found, expected):
    assert torch.equal(found[0], expected[0])
    for target, other in zip(found[1], expected[1], strict=True):
        assert all(torch.equal(target[key], other[key]) for key in ("boxes", "labels", "masks"))


def test_batches_of_a_training_are_pasted_and_those_of_validations_are_not(tmp_path):
    module, trainer = fit(tmp_path, CopyPasteCallback(p=1.0, seed=5))
    settings = CopyPasteSettings(p=1.0)
    for number, found in enumerate(module.trained):
        images, targets = evened(number)
        assert isinstance(found, list)
        assert_same(found, copypaste_batch(images, targets, generator=batch_generator(5, 0, number), settings=settings))
    assert any(target["pasted"].any() for _, targets in module.trained for target in targets)
    assert len(module.trained) == BATCHES
    assert_same(module.validated[-1], evened(BATCHES - 1))
    pasted = sum(int(target["pasted"].sum()) for target in module.trained[-1][1])
    assert trainer.callback_metrics["copy_paste/instances_per_image"] == pasted / 2
    assert module.on_after_batch_transfer(batch(0), 0)[1][0].keys() == {"boxes", "labels", "masks"}  # as it was before


def test_a_resumed_training_gets_the_batches_and_the_bank_of_one_that_was_not_stopped(tmp_path):
    settings = CopyPasteSettings(p=1.0, bank_size=50)
    torch.manual_seed(11)
    whole, _ = fit(tmp_path / "whole", CopyPasteCallback(settings), epochs=2)
    torch.manual_seed(11)
    _, stopped = fit(tmp_path / "part", CopyPasteCallback(settings), epochs=1)
    stopped.save_checkpoint(tmp_path / "one.ckpt")
    torch.manual_seed(99)  # the checkpoint knows the seed
    callback = CopyPasteCallback(settings)
    resumed, _ = fit(tmp_path / "part", callback, epochs=2, checkpoint=tmp_path / "one.ckpt")

    assert len(resumed.trained) == BATCHES
    for found, expected in zip(resumed.trained, whole.trained[BATCHES:], strict=True):
        assert_same(found, expected)
    assert isinstance(callback.bank, InstanceBank)
    assert len(callback.bank) > 4  # more than one batch has


@pytest.mark.parametrize(
    ("warmup", "stop", "expected"),
    [
        ("4ba", None, [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.5, 0.5]),
        ("1ep", "6ba", [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.0, 0.0]),
        ("50%dur", "75%dur", [0.0, 0.125, 0.25, 0.375, 0.5, 0.5, 0.0, 0.0]),
    ],
)
def test_p_follows_the_training(tmp_path, warmup, stop, expected):
    module, _ = fit(tmp_path, CopyPasteCallback(p=0.5, warmup=warmup, stop=stop), epochs=2)
    assert module.p == pytest.approx(expected)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return torch.utils.data.DataLoader([batch(0)], batch_size=None)


class DataWithHook(Data):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return 255 - batch[0], batch[1]


@pytest.mark.parametrize(
    ("data", "images"), [(Data, lambda images: images // 2 * 2), (DataWithHook, lambda images: 255 - images)]
)
def test_the_hook_of_the_datamodule_or_else_of_the_module_comes_first(tmp_path, data, images):
    module = Recorder()
    trainer = pl.Trainer(
        default_root_dir=tmp_path, max_epochs=1, callbacks=[CopyPasteCallback(p=1.0, seed=3)], accelerator="cpu",
        logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, datamodule=data())
    given, targets = batch(0)
    expected = copypaste_batch(images(given), targets, generator=batch_generator(3, 0, 0), p=1.0)
    assert_same(module.trained[0], expected)


@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_a_hook_of_its_own_is_told_from_that_of_lightning_by_either_name(name):
    package = pytest.importorskip(name)

    class Without(package.LightningDataModule):
        pass

    class With(package.LightningDataModule):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch

    assert [_has_own_hook(data) for data in (None, Without(), With())] == [False, False, True]


def test_a_map_that_is_not_there_is_refused_before_the_training(tmp_path):
    with pytest.raises(DataError, match=r"lost\.npy: "):
        CopyPasteCallback(placement="random", place_map=str(tmp_path / "lost.npy"))
