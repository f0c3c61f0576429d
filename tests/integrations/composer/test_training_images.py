"""Images of what a model is given: of the first batch, and at an interval, in a real Trainer."""

import numpy as np
import pytest
import torch
from composer import Algorithm, DataSpec, Event, Trainer
from composer.loggers import LoggerDestination
from composer.models import ComposerModel
from composer.utils import dist
from PIL import Image
from torch.utils.data import DataLoader

from composer_copypaste import TrainingPictures
from composer_copypaste.integrations.composer.callbacks import TrainingSheet
from composer_copypaste.visualize.draw import training_sheet

NAMES = ["disc", "square"]
SIZE = 16


class Number(ComposerModel):
    """Learns one number."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return self.weight

    def loss(self, outputs, batch, *args):
        return (outputs - 1) ** 2


class Repaint(Algorithm):
    """Paints batch n in the grey 30 n, and says that its objects were pasted."""

    def match(self, event, state):
        return event == Event.AFTER_DATALOADER

    def apply(self, event, state, logger):
        images, targets = state.batch
        state.batch = repainted(images, targets, int(state.timestamp.batch))


def repainted(images, targets, number):
    return torch.full_like(images, 30 * number), [{**target, "pasted": torch.tensor([True])} for target in targets]


class Album(LoggerDestination):
    """Keeps the images that it is given."""

    def __init__(self):
        self.logged = {}

    def log_images(self, images, name="Images", channels_last=False, step=None, *args, **kwargs):
        self.logged[name, step] = images if channels_last else images.transpose(1, 2, 0)


def samples():
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    mask[0, 4:12, 4:12] = 1
    target = {"boxes": torch.tensor([[4.0, 4.0, 12.0, 12.0]]), "labels": torch.tensor([1]), "masks": mask}
    return [(torch.zeros(3, SIZE, SIZE, dtype=torch.uint8), target)] * 6


def collate(pairs):
    return torch.stack([image for image, _ in pairs]), [target for _, target in pairs]


def run(*callbacks, loggers=(), duration="5ba", **options):
    """A run of three batches of two images in each epoch."""
    model = Number()
    loader = DataLoader(samples(), batch_size=2, collate_fn=collate)
    trainer = Trainer(
        model=model,
        train_dataloader=DataSpec(loader, get_num_samples_in_batch=lambda batch: len(batch[0])),
        max_duration=duration,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1),
        algorithms=[Repaint()],
        callbacks=list(callbacks),
        loggers=list(loggers),
        progress_bar=False,
        device="cpu",
        **options,
    )
    trainer.fit()
    trainer.close()


def shown(number):
    """The sheet of a batch, as the model got it."""
    sheet = training_sheet(*repainted(*collate(samples()[:2]), number), NAMES)
    return sheet.permute(1, 2, 0).numpy()


def test_the_sheet_shows_the_first_batch_as_algorithms_left_it(tmp_path):
    run(TrainingSheet(tmp_path / "training_pictures.png", NAMES), duration="2ba")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "training_pictures.png")), shown(0))


@pytest.mark.parametrize(("interval", "due"), [("2ba", [0, 2, 4]), ("1ep", [0, 3]), ("2ep", [0]), ("1ba", range(5))])
def test_batches_that_are_due_go_into_the_folder_and_to_every_logger(tmp_path, interval, due):
    albums = Album(), Album()
    run(TrainingPictures(NAMES, interval=interval, folder=tmp_path / "pictures"), loggers=albums)
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {f"ba{number}.png" for number in due}
    for album in albums:
        assert [*album.logged] == [("training_pictures", number) for number in due]
    for number in due:
        saved = np.asarray(Image.open(tmp_path / "pictures" / f"ba{number}.png"))
        assert np.array_equal(saved, shown(number))
        assert np.array_equal(albums[0].logged["training_pictures", number], saved)


def test_without_a_folder_only_loggers_get_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    album = Album()
    run(TrainingPictures(NAMES, interval="4ba"), loggers=[album])
    assert len(album.logged) == 2
    assert not [*tmp_path.rglob("*.png")]


def test_other_processes_draw_nothing(tmp_path, monkeypatch):
    album = Album()
    monkeypatch.setattr(dist, "get_global_rank", lambda: 1)
    sheet = TrainingSheet(tmp_path / "sheet.png", NAMES)
    run(sheet, TrainingPictures(NAMES, folder=tmp_path / "pictures"), loggers=[album], duration="1ba")
    assert not album.logged
    assert not [*tmp_path.rglob("*.png")]


@pytest.mark.parametrize("interval", ["0ba", "2.5ep", "soon", "10sp"])
def test_an_invalid_interval_is_refused(interval):
    with pytest.raises(
        ValueError,
        match=f"expected epochs or batches above 0, with the unit, such as '12ep' or '800ba', .*got '{interval}'",
    ):
        TrainingPictures(NAMES, interval=interval)
