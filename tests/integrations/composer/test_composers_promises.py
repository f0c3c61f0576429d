"""What Composer's test suite asks of each of its algorithms, asked of ours: here on a CPU, and on a GPU where one is.

There: ``test_algorithms_train``, ``test_algorithm_resumption``, ``test_required_on_load``, ``test_algorithm_settings``.
"""

import functools
import warnings

import numpy as np
import pytest
import torch
from composer import Algorithm, Trainer
from toy_trainings import loader

from composer_copypaste import CopyPaste, LargeScaleJitter, MaskRCNN
from composer_copypaste.settings import (
    CopyPasteSettings,  # noqa: F401 - a repr names them
    LargeScaleJitterSettings,  # noqa: F401 - a repr names them
)

ALGORITHMS = {
    "CopyPaste": lambda: [CopyPaste(p=1.0, stop="3ba")],
    "CopyPaste with a bank": lambda: [CopyPaste(p=1.0, bank_size=5)],
    "LargeScaleJitter": lambda: [LargeScaleJitter(size=(48, 48))],
    "both": lambda: [LargeScaleJitter(size=(48, 48)), CopyPaste(p=1.0)],
}
ON_CPU = {"device": "cpu", "precision": "fp32"}
ON_GPU = {"device": "gpu", "precision": "amp_bf16"}
IN_FLOAT16 = {"device": "gpu", "precision": "amp_fp16"}
WITH_GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
DEVICES = [pytest.param(ON_CPU, id="cpu"), pytest.param(ON_GPU, id="gpu", marks=WITH_GPU)]
LEARNED = ("/state/model", "/state/optimizers", "/rng")
"""What may differ on a GPU, which adds gradients in any order; then torchvision draws other numbers of samples."""
CLOCKS = ("total_wct", "iteration_wct", "epoch_wct", "batch_wct")


def trainer(algorithms, device=ON_CPU, **options):
    """A trainer of a small model for two epochs of two batches; the same weights each time."""
    torch.manual_seed(0)
    model = MaskRCNN(num_classes=3, backbone="small", resize_training=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return Trainer(
        model=model,
        train_dataloader=loader(),
        max_duration="2ep",
        optimizers=optimizer,
        schedulers=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
        algorithms=algorithms,
        loggers=[],
        progress_bar=False,
        seed=3,
        **device,
        **options,
    )


def finished(*args, **options):
    made = trainer(*args, **options)
    made.fit()
    made.close()
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Gives the folder of a finished training on the CPU with an algorithm, or with none, and its model's weights."""

    @functools.cache
    def train(name):
        folder = tmp_path_factory.mktemp("whole")
        made = finished(ALGORITHMS[name]() if name else [], **saving_into(folder))
        return folder, made.state.model.state_dict()

    return train


def saving_into(folder):
    return {"save_folder": str(folder), "save_filename": "ep{epoch}-rank{rank}", "save_interval": "1ep"}


def repeatable(path):
    """A checkpoint without what the hour, its folder and the tests' own checks decide."""
    saved = torch.load(path, weights_only=False)
    state = saved["state"]
    for clock in CLOCKS:
        del state["timestamp"]["Timestamp"][clock]
    del state["run_name"], state["callbacks"], state["metadata"], state["integrations"]
    for process in saved["rng"]:
        del process["python"]  # pytest's checks of types draw from it, one of each list
    return {"state": state, "rng": saved["rng"]}


def differences(one, other, place=""):
    """Where two nested values are not equal."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), place
        return [found for key in one for found in differences(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(other), place
        return [
            found for i, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{place}/{i}")
        ]
    equal = torch.equal(one, other) if isinstance(one, torch.Tensor) else np.array_equal(one, other)
    return [] if equal else [place]


@pytest.mark.parametrize("kind", [CopyPaste, LargeScaleJitter])
def test_a_seed_below_0_is_an_error_before_training(kind):
    with pytest.raises(ValueError, match=r"^seed: expected a whole number, 0 or more, .*, got -1$"):
        kind(seed=-1)


@pytest.mark.parametrize("device", [*DEVICES, pytest.param(IN_FLOAT16, id="float16", marks=WITH_GPU)])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_trains_and_can_be_asked_to_train_on(name, device):
    made = trainer(ALGORITHMS[name](), device)
    made.fit()
    made.fit(duration="1ep")
    assert made.state.timestamp.batch == 6
    assert all(weights.isfinite().all() for weights in made.state.model.parameters())
    made.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_in_float16_the_scale_of_the_gradients_settles_so_that_weights_move_and_is_resumed(tmp_path):
    made = trainer([CopyPaste(p=1.0)], IN_FLOAT16)
    start = [weights.detach().clone() for weights in made.state.model.parameters()]
    made.fit(duration="10ep")  # each batch whose gradients overflow halves the scale, from 2**16, and moves nothing
    end = list(made.state.model.parameters())
    assert all(weights.isfinite().all() for weights in end)
    assert len(differences(start, end)) > len(start) / 2
    made.state.scaler.update(new := 2.0**7)
    path = made.save_checkpoint(str(tmp_path / "saved.pt"))
    made.close()
    resumed = trainer([CopyPaste(p=1.0)], IN_FLOAT16, load_path=path)
    assert resumed.state.scaler.get_scale() == new
    resumed.fit(duration="1ep")
    assert all(weights.isfinite().all() for weights in resumed.state.model.parameters())
    resumed.close()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_resumed_training_leaves_the_checkpoint_of_an_uninterrupted_one(whole, name, device, tmp_path):
    folder = tmp_path / "whole"
    if device is ON_CPU:
        folder, _ = whole(name)
    else:
        finished(ALGORITHMS[name](), device, **saving_into(folder))
    first = str(folder / "ep1-rank{rank}")
    finished(ALGORITHMS[name](), device, load_path=first, **saving_into(tmp_path / "resumed"))
    start, end = (repeatable(folder / f"ep{epoch}-rank0") for epoch in (1, 2))
    found = differences(end, repeatable(tmp_path / "resumed" / "ep2-rank0"))
    assert [place for place in found if device is ON_CPU or not place.startswith(LEARNED)] == []
    weights = [state["state"]["model"] for state in (start, end)]
    assert len(differences(*weights)) > len(weights[0]) / 2


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_checkpoint_loads_without_it_and_does_not_bring_it_back(whole, name, weights_only):
    assert not any(algorithm.required_on_load() for algorithm in ALGORITHMS[name]())
    folder, saved = whole(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = trainer([], load_path=str(folder / "ep2-rank0"), load_weights_only=weights_only)
    assert loaded.state.algorithms == []
    assert not [warning for warning in caught if "required_on_load" in str(warning.message)]
    assert differences(saved, loaded.state.model.state_dict()) == []
    loaded.close()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_checkpoint_of_a_training_without_it_loads_with_it(whole, name):
    folder, saved = whole(None)
    loaded = trainer(ALGORITHMS[name](), load_path=str(folder / "ep2-rank0"))
    assert differences(saved, loaded.state.model.state_dict()) == []
    assert len(loaded.state.algorithms) == len(ALGORITHMS[name]())
    loaded.close()


@pytest.mark.parametrize(
    "algorithm",
    [
        CopyPaste(),
        CopyPaste(p=0.25, scale_range=(0.5, 1.5), label_weights={3: 5.0}, stop="90%dur", seed=4, input_key="image"),
        LargeScaleJitter(),
        LargeScaleJitter(size=(48, 32), p_flip=0.25, seed=4, target_key="truth"),
    ],
)
def test_its_repr_makes_it_again(algorithm):
    assert isinstance(algorithm, Algorithm)
    again = eval(repr(algorithm))
    for name in ("settings", "seed", "input_key", "target_key"):
        assert getattr(again, name) == getattr(algorithm, name)
    assert algorithm.state_dict()["repr"] == repr(algorithm) == repr(again)
