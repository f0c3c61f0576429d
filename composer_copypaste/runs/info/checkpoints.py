"""What a file of weights holds."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy import ndarray

from composer_copypaste.errors import CheckpointError, first_few
from composer_copypaste.models.class_rows import class_count, detector_of
from composer_copypaste.models.detectron2_style import MARK
from composer_copypaste.models.detectron2_weights import from_detectron2, is_of_detectron2
from composer_copypaste.models.recognise import recognise_model
from composer_copypaste.models.weight_files import (
    StateDict,
    find_state_dict,
    nonfinite_tensors,
    read_file_of_weights,
)
from composer_copypaste.runs.data import read_trained_categories
from composer_copypaste.runs.folder import RunFolder, run_folder_of
from composer_copypaste.runs.info.description import Description, InfoTable, Value, detector_with_article
from composer_copypaste.visualize.curves import COLORS

DEPTH = 2
"""Parts of a model are named by this many names: "backbone.body"."""
SAMPLED = 200_000
"""At most this many weights of a part are drawn."""


def describe_checkpoint(path: Path) -> Description:
    """What a checkpoint of a run, a state dict, a safetensors file or a file of Detectron2's holds.

    Raises:
        CheckpointError: where it cannot be read, or is none. No code in it is run.
    """
    content = read_file_of_weights(path)
    found = find_state_dict(content, path)
    state = {name.removeprefix("module.").removeprefix("module."): tensor for name, tensor in found.items()}
    run, problems, kind = run_folder_of(path), [], _kind(content, path)
    if is_of_detectron2(state):
        kind = "weights of Detectron2"
        author = content.get("__author__") if isinstance(content, Mapping) else None
        try:
            state = from_detectron2(state, path, author)
        except CheckpointError as error:
            problems.append(f"cannot be loaded here: {str(error).removeprefix(f'{path}: ')}")
    facts = _model_facts(state, path) | _training_facts(content) | _run_facts(run)
    if bad := nonfinite_tensors(state):
        problems.append(f"weights that are not finite, as a training that diverged leaves them: {first_few(bad)}")
    state = {name: tensor for name, tensor in state.items() if name != MARK}
    tables = [_part_table(state), *_category_tables(run)]
    return Description(path, kind, facts, tables, problems, draw=partial(_draw, state))


def _kind(content: object, path: Path) -> str:
    if path.suffix == ".safetensors":
        return "weights (safetensors)"
    if isinstance(content, Mapping) and isinstance(content.get("state"), Mapping):
        return "a checkpoint of Composer"
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        return "a checkpoint of torchvision's reference training"
    return "a state dict"


def _model_facts(state: StateDict, path: Path) -> dict[str, Value]:
    known = recognise_model(state)
    state = {name: tensor for name, tensor in state.items() if name != MARK}
    detector = detector_of(state)
    title = "no detector" if detector is None else detector_with_article(detector)
    what = known[0] if known else title
    types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})
    facts: dict[str, Value] = {
        "model": what,
        "classes, background included": class_count(state),
        "tensors": len(state),
        "numbers": sum(tensor.numel() for tensor in state.values()),
        "types": ", ".join(types),
        "file, MB": round(path.stat().st_size / 1e6, 1),
    }
    return facts


def _training_facts(content: object) -> dict[str, Value]:
    """What a checkpoint of Composer says of its training."""
    state = content.get("state") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        return {}
    facts: dict[str, Value] = {}
    time = state.get("timestamp")
    time = time.get("Timestamp") if isinstance(time, Mapping) else None
    if isinstance(time, Mapping):
        facts |= {f"trained {unit}": time.get(name) for unit, name in (("batches", "batch"), ("images", "sample"))}
        facts["epoch"] = time.get("epoch")
        duration = time.get("total_wct")
        facts["trained for"] = None if duration is None else str(duration).partition(".")[0]
    if "run_name" in state:
        facts["run"] = str(state["run_name"])
    for name in ("algorithms", "optimizers"):
        entries = state.get(name)
        names = list(entries) if isinstance(entries, Mapping) else [entry[0] for entry in entries or ()]
        facts[name] = ", ".join(map(str, names)) or "none"
    metadata = state.get("metadata")
    if isinstance(metadata, Mapping):
        versions = metadata.get("composer_env_info") or {}
        facts |= {"Composer": versions.get("composer_version"), "torch": metadata.get("torch_version")}
    return facts


def _run_facts(run: RunFolder | None) -> dict[str, Value]:
    return {} if run is None else {"in the folder of the run": str(run.root)}


def _category_tables(run: RunFolder | None) -> list[InfoTable]:
    if run is None or not run.categories.exists():
        return []
    categories = read_trained_categories(run.categories)
    rows: list[list[Value]] = [
        [category.name, label, category.id] for label, category in enumerate(categories, start=1)
    ]
    return [InfoTable("categories", ["category", "label", "id"], rows)]


def _part_table(state: StateDict) -> InfoTable:
    rows: list[list[Value]] = []
    for part, tensors in _parts(state).items():
        numbers = [tensor.double().abs() for tensor in tensors if tensor.is_floating_point()]
        count = sum(tensor.numel() for tensor in tensors)
        mean = float(sum(each.sum() for each in numbers) / max(1, sum(each.numel() for each in numbers)))
        megabytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
        rows.append([part, len(tensors), count, round(megabytes, 2), mean if numbers else None])
    return InfoTable("parts", ["part", "tensors", "numbers", "MB", "mean of absolute values"], rows)


def _parts(state: StateDict) -> dict[str, list[torch.Tensor]]:
    parts: dict[str, list[torch.Tensor]] = {}
    for name, tensor in state.items():
        parts.setdefault(".".join(name.split(".")[:-1][:DEPTH]) or name, []).append(tensor)
    return parts


def _draw(state: StateDict) -> Figure:
    """The size of each part, and how its weights are distributed."""
    parts = _parts(state)
    sizes = {part: sum(tensor.numel() for tensor in tensors) / 1e6 for part, tensors in parts.items()}
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:12])
    figure = Figure(figsize=(14, max(4.5, 1 + 0.4 * len(largest))), layout="constrained")
    of_sizes, of_values = figure.subplots(1, 2)
    of_sizes.barh(list(largest), list(largest.values()), color=COLORS[0])
    of_sizes.invert_yaxis()
    of_sizes.set_xlabel("numbers, millions")
    edges = np.geomspace(1e-6, 1e2, 121)
    for color, part in zip(COLORS, list(largest)[:6], strict=False):
        counts, _ = np.histogram(np.abs(_sampled(parts[part])), edges)
        of_values.stairs(counts / max(1, counts.sum()), edges, label=part, color=color, linewidth=1.6)
    of_values.set_xscale("log")
    of_values.set_xlabel("absolute value")
    of_values.set_ylabel("share of the numbers")
    if largest:
        of_values.legend(frameon=False, fontsize=8)
    return figure


def _sampled(tensors: list[torch.Tensor]) -> ndarray:
    values = torch.cat([tensor.reshape(-1).double() for tensor in tensors])
    return values[:: max(1, len(values) // SAMPLED)].nan_to_num(0).numpy()
