"""Gives damaged inputs to the package: each is used, or refused with one of our own messages; nothing else is raised.

The inputs are valid ones with up to three changes, drawn from a seed. pytest's checks of types would refuse many of
them before the package does, so `test_damaged_inputs.py` runs this as a program, which anyone can run for longer:

    python tests/damaged_inputs.py --count 10000
    python tests/damaged_inputs.py plan batch --count 1 --seed 4711
"""

import argparse
import copy
import json
import linecache
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from copypaste_cases import IDENTITY, SIDE, make_images, target
from PIL import Image
from pycocotools import mask as coco_masks

import composer_copypaste
from composer_copypaste import (
    CocoInstances,
    CompactMasks,
    PastePlan,
    copypaste_batch,
    describe_file,
    load_predictor,
)
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.errors import UserError
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.error_analysis import find_errors
from composer_copypaste.metrics.results import CocoResults
from composer_copypaste.models.detectors import build_detector
from composer_copypaste.recipes.load import load_recipe, recipe_to_yaml

PACKAGE = str(Path(composer_copypaste.__file__).parent)
LONGEST_FAILURE = 6000
"""Characters that are shown of a failure, its last ones: torch lists all devices that lack a function."""
ODD: tuple[Any, ...] = (
    None, True, False, "", "a", "1", "\ud800", 0, 1, -1, 3, 0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"),
    2**31, 2**63, -(2**63) - 1, 10**400, [], {}, [[]], [None], ["a"], {"a": 1}, [1, 2, 3, 4], [[0, 0, 5, 0, 5, 5]],
)  # fmt: skip
"""What takes the place of a value, in JSON and in Python."""


# ---- what may be raised


def is_ours(error: Exception) -> bool:
    """Whether an error is one that the package raises on purpose, with a message for the user."""
    if not isinstance(error, UserError | ValueError | TypeError):
        return False
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    raised = linecache.getline(innermost.filename, innermost.lineno or 0).strip().startswith("raise ")
    message = str(error)
    lines_are_a_list = all(line.startswith("  ") for line in message.splitlines()[1:])
    return innermost.filename.startswith(PACKAGE) and raised and message != "" and lines_are_a_list


# ---- damage to JSON


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a value, with each of its keys or indices."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


def odd_value(draw: random.Random) -> Any:
    """One of the odd values, of its own: later changes may be made inside it."""
    return copy.deepcopy(draw.choice(ODD))


def damage(value: Any, draw: random.Random) -> Any:
    """A copy of nested dicts and lists with up to three changes."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(0, 3)):
        found = list(places(value))
        if not found:
            return value
        inside, key = draw.choice(found)
        match draw.choice(["replace", "replace", "remove", "repeat", "add", "scale", "swap"]):
            case "replace":
                inside[key] = odd_value(draw)
            case "remove":
                del inside[key]
            case "repeat" if isinstance(inside, list):
                inside.append(copy.deepcopy(inside[key]))
            case "add" if isinstance(inside, dict):
                inside[draw.choice(["", "a", str(key) + "s"])] = odd_value(draw)
            case "scale" if isinstance(inside[key], int | float) and abs(inside[key]) < 1e300:
                inside[key] *= draw.choice([-1, 0.5, 10, 1e6])
            case _:
                other, other_key = draw.choice(found)
                if other_key in other if isinstance(other, dict) else other_key < len(other):
                    inside[key] = copy.deepcopy(other[other_key])
    return value


def damage_text(text: str, draw: random.Random) -> str:
    """A text that in one of five cases is cut off, or has a character changed."""
    place = draw.randrange(len(text) + 1)
    match draw.randrange(10):
        case 0:
            return text[:place]
        case 1:
            return text[:place] + draw.choice('{}[],:"\\x \n\t\0é-&*!%@#') + text[place + draw.randrange(2) :]
    return text


def as_json(value: Any) -> str:
    """JSON, also of numbers that JSON does not have."""
    return json.dumps(value)


# ---- doors: each is given a folder of its own for all its cases, and makes the function that tries one


Door = Callable[[Path], Callable[[random.Random], None]]


def plans(folder: Path) -> Callable[[random.Random], None]:
    """Plans as JSON, carried out."""
    rows = PastePlan.from_rows([(0, 1, 0, IDENTITY), (1, 0, 1, IDENTITY), (1, 0, 0, ((0.5, 0, 1), (0, -2, 7)))]).rows()

    def try_one(draw: random.Random) -> None:
        plan = PastePlan.from_json(damage_text(as_json(damage(rows, draw)), draw))
        images, targets = valid_batch()
        check_batch(*copypaste_batch(images, targets, plan=plan), images)

    return try_one


def valid_batch() -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Two images with two objects each."""
    fields = {"image_id": torch.tensor(7), "iscrowd": torch.tensor([0, 1]), "area": torch.tensor([16.0, 9.0])}
    keypoints = torch.ones(2, 2, 3)
    targets = [target((0, 0, 4, 4), (3, 3, 6, 6), **fields, keypoints=keypoints + place) for place in range(2)]
    return make_images(), targets


def check_batch(images: Any, targets: Any, given: Any) -> None:
    """What comes back is a batch: as many images, and fields of one length, of boxes that enclose masks."""
    assert len(images) == len(given)
    for image, other in zip(images, given, strict=True):
        assert image.shape == other.shape
    for found in targets if isinstance(targets, list | tuple) else ():
        count = len(found["labels"])
        assert {len(found[key]) for key in ("boxes", "masks", "area", "iscrowd") if key in found} <= {count}
        assert not count or torch.as_tensor(found["boxes"]).isfinite().all()


DTYPES = (torch.uint8, torch.bool, torch.int8, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float64,
          torch.complex64, torch.uint16)  # fmt: skip


def damage_tensor(tensor: torch.Tensor, draw: random.Random) -> Any:  # noqa: C901 - a list of kinds
    """A tensor of another shape, type or content; those without content stay as they are."""
    if tensor.is_meta or tensor.layout != torch.strided:
        return tensor
    match draw.randrange(11):
        case 0:
            return tensor.to(draw.choice(DTYPES))
        case 1:
            return tensor.unsqueeze(draw.randint(0, tensor.ndim))
        case 2 if tensor.ndim:
            return tensor[draw.randint(0, len(tensor)) :]
        case 3 if tensor.ndim:
            return torch.cat([tensor, tensor[:1]])
        case 4 if tensor.ndim:
            return tensor.movedim(0, -1)
        case 5 if tensor.numel():
            flat = tensor.clone().reshape(-1)
            value = draw.choice([-1, 0, 1, 2, 100, 255, 1e9, float("nan"), float("inf"), -1e30])
            whole = not (flat.is_floating_point() or flat.is_complex())
            if whole and not (value == value and abs(value) < 128):
                value = 127
            flat[draw.randrange(len(flat))] = int(abs(value)) if whole else value
            return flat.reshape(tensor.shape)
        case 6:
            return tensor.detach().numpy() if draw.randrange(2) else tensor.tolist()
        case 7:
            return tensor.to("meta")
        case 8:
            return tensor.to_sparse() if tensor.ndim else tensor
        case 9 if tensor.is_floating_point():
            return tensor.clone().requires_grad_()
        case 10 if tensor.ndim:
            return tensor[..., ::2]
    return odd_value(draw)


SETTINGS: dict[str, tuple[Any, ...]] = {
    "p": (0, 1, 1.0), "max_copied_instances": (1, None, 100), "p_instance": (None, 0.0, 1.0), "jitter": ("instance",),
    "scale_range": ((0.1, 2.0), (1, 1), [0.5, 3]), "rotation": (0, 45.0, 180), "placement": ("random", "near"),
    "source": ("self", "both"), "blend_sigma": (0.0, 1.5), "min_visibility": (0.0, 0.5, 1.0), "min_area": (1, 5),
    "max_overlap": (0.0, 0.3), "erosion": (0, 2), "brightness": (0.0, 0.5), "keep_masks": (True, False),
    "area_range": ((0, 10), None), "labels": ((1,), None), "object_keys": ((), ("area",)), "p_flip": (0, 1),
    "overlap_by": ("mask",), "least_overlap_first": (True,), "p_flip_vertical": (1,), "aspect_range": ((0.5, 2),),
}  # fmt: skip
"""Settings, and values that they take."""


def draw_settings(draw: random.Random) -> dict[str, Any]:
    """A few settings, of which one in four has a value that is none of its own."""
    names = draw.sample(sorted(SETTINGS), draw.randint(0, 4))
    chosen = {name: draw.choice(SETTINGS[name]) for name in names}
    return {name: odd_value(draw) if draw.random() < 0.05 else value for name, value in chosen.items()}


def batches(folder: Path) -> Callable[[random.Random], None]:
    """Batches and settings, of detection targets or of class ids."""

    def try_one(draw: random.Random) -> None:
        images, targets = damaged_batch(draw)
        generator = torch.Generator().manual_seed(draw.randrange(100))
        given = copypaste_batch(images, targets, generator=generator, **draw_settings(draw))
        if all(not torch.as_tensor(image).is_meta for image in given[0]):
            check_batch(*given, images)

    return try_one


def damaged_batch(draw: random.Random) -> tuple[Any, Any]:
    """A batch in one of its forms, with up to three changes."""
    images, targets = valid_batch()
    given: dict[str, Any] = {"images": images if draw.randrange(2) else list(images), "targets": targets}
    if draw.randrange(5) == 0:
        given["targets"] = torch.randint(0, 3, (2, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    elif draw.randrange(3) == 0:
        for each in targets:
            each["masks"] = CompactMasks.from_dense(each["masks"])
    for _ in range(draw.randint(0, 3)):
        inside, key = draw.choice(list(places(given)))
        value = inside[key]
        match draw.choice(["tensor", "tensor", "tensor", "replace", "remove", "add"]):
            case "tensor" if isinstance(value, torch.Tensor):
                inside[key] = damage_tensor(value, draw)
            case "replace":
                inside[key] = odd_value(draw)
            case "remove" if inside is not given:
                del inside[key]
            case "add" if isinstance(inside, dict) and inside is not given:
                inside[draw.choice(["scores", "obb", "id", "note", "segmentation"])] = torch.ones(draw.randint(0, 3))
    return given["images"], given["targets"]


def outlines_of_a_square() -> list[Any]:
    """A square of five pixels a side as a polygon, as numbers of pixels, and as these in text."""
    counts = [9, 5, 3, 5, 3, 5, 3, 5, 3, 5, 18]  # column by column
    text = coco_masks.frPyObjects({"size": [SIDE, SIDE], "counts": counts}, SIDE, SIDE)["counts"].decode()
    return [[[1, 1, 6, 1, 6, 6, 1, 6]], *({"size": [SIDE, SIDE], "counts": each} for each in (counts, text))]


def coco_content() -> dict[str, Any]:
    """Two images with two objects each, in all forms of outlines."""
    outlines = outlines_of_a_square()
    return {
        "info": {"year": 2026},
        "images": [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(2)],
        "categories": [{"id": 3, "name": "nut"}, {"id": 5, "name": "fig", "supercategory": "fruit"}],
        "annotations": [
            {"id": n, "image_id": n % 2, "category_id": 3 + n % 2 * 2, "iscrowd": 0, "area": 25.0, "bbox": [1, 1, 5, 5],
             "segmentation": outlines[n % len(outlines)]}
            for n in range(4)
        ],
    }  # fmt: skip


def coco_files(folder: Path) -> Callable[[random.Random], None]:
    """COCO files, whose images are read with their objects."""
    content = coco_content()
    for number, image in enumerate(make_images()):
        Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(folder / f"{number}.png")

    def try_one(draw: random.Random) -> None:
        file = folder / "annotations.json"
        text = damage_text(as_json(damage(content, draw)), draw)
        file.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        data = CocoInstances(folder, file)
        for image, objects in data:
            check_batch([image], [objects], [image])

    return try_one


def results(folder: Path) -> Callable[[random.Random], None]:
    """COCO results, which are described alone, or scored by annotations."""
    (folder / "truth.json").write_text(as_json(coco_content()))
    truth = CocoAnnotations.load(folder / "truth.json")
    boxes = [{"image_id": n % 2, "category_id": 3, "score": 0.5, "bbox": [1, 1, 5, 5]} for n in range(3)]
    masks = [{**box, "segmentation": each} for box, each in zip(boxes, outlines_of_a_square(), strict=True)]

    def try_one(draw: random.Random) -> None:
        file = folder / "results.json"
        text = damage_text(as_json(damage(draw.choice([boxes, masks, masks])[:], draw)), draw)
        file.write_bytes(text.encode("utf-8", errors="surrogatepass"))
        if draw.randrange(2):
            describe_file(file)
            return
        found = CocoResults.load(file, truth)
        metric = CocoMeanAveragePrecision(truth, iou_types=("bbox", "segm") if found.masks else ("bbox",))
        metric.update_results(found.images)
        for value in metric.compute().values():
            assert value.isnan() or 0 <= value <= 1
        find_errors(metric.overlaps(metric.iou_types[-1]))

    return try_one


def recipes(folder: Path) -> Callable[[random.Random], None]:
    """Recipes, with all their keys or few."""
    full = yaml.safe_load(recipe_to_yaml(load_recipe("quickstart")))
    few = {"base": "quickstart", "optimizer": {"lr": 1e-3}, "copy_paste": {"p": 0.5, "scale_range": [0.5, 1.0]}}

    def try_one(draw: random.Random) -> None:
        values = damage(draw.choice([full, few]), draw)
        text = as_json(values) if draw.randrange(2) else yaml.safe_dump(values, allow_unicode=True)
        (folder / "mine.yaml").write_bytes(damage_text(text, draw).encode("utf-8", errors="surrogatepass"))
        again = load_recipe(folder / "mine.yaml", [draw.choice(OVERRIDES)] if draw.randrange(3) == 0 else [])
        (folder / "again.yaml").write_text(recipe_to_yaml(again), encoding="utf-8")
        assert load_recipe(folder / "again.yaml") == again

    return try_one


OVERRIDES = ("copy_paste.p=1", "copy_paste.p=", "=", "copy_paste", "data.shapes=null", "model.name=[", "a.b.c=1",
             "optimizer.lr=1e-4", "training.duration=1", "copy_paste.scale_range=[1,", "name={a: b}",
             "data.train.images=x")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """The files of a run's folder that its model is read from."""

    recipe: str
    categories: Any
    state: dict[str, torch.Tensor]


def checkpoints(folder: Path) -> Callable[[random.Random], None]:
    """Folders of a run, whose model is loaded."""
    overrides = ["model.min_size=32", "model.max_size=32", "model.detections_per_image=2"]
    recipe = load_recipe("quickstart", overrides)
    categories = [{"id": 1, "name": "nut"}, {"id": 2, "name": "fig"}]
    run = Run(recipe_to_yaml(recipe), categories, build_detector(3, recipe.model).state_dict())
    (folder / "checkpoints").mkdir()

    def try_one(draw: random.Random) -> None:
        write_damaged_run(run, folder, draw)
        describe_file(folder)
        load_predictor(folder)

    return try_one


def write_damaged_run(run: Run, folder: Path, draw: random.Random) -> None:
    """Write a run's files, of which one is damaged."""
    recipe, categories, state = run.recipe, as_json(run.categories), dict(run.state)
    which = draw.choice(["recipe", "categories", "tensors", "content", "bytes"])
    if which == "recipe":
        recipe = damage_text(yaml.safe_dump(damage(yaml.safe_load(recipe), draw)), draw)
    if which == "categories":
        categories = damage_text(as_json(damage(run.categories, draw)), draw)
    if which == "tensors":
        name = draw.choice(sorted(state))
        if draw.randrange(3) == 0:
            del state[name]
        else:
            state[draw.choice([name, f"{name}.x", ""])] = damage_tensor(state[name], draw)
    content: Any = {"state": {"model": {f"model.{name}": tensor for name, tensor in state.items()}}}
    if which == "content":
        content = draw.choice([state, {"state": state}, {"model": content}, list(state), {"state": None}, [], None, 3])
    checkpoint = folder / "checkpoints" / "latest-rank0.pt"
    try:
        torch.save(content, checkpoint)
    except (NotImplementedError, RuntimeError):  # what torch does not write is not read either
        torch.save(state, checkpoint)
    if which == "bytes":
        damage_bytes(checkpoint, draw)
    (folder / "recipe.yaml").write_bytes(recipe.encode("utf-8", errors="surrogatepass"))
    (folder / "categories.json").write_bytes(categories.encode("utf-8", errors="surrogatepass"))


def damage_bytes(file: Path, draw: random.Random) -> None:
    """Cut a file off, or change bytes of it."""
    content = bytearray(file.read_bytes())
    if draw.randrange(2):
        content = content[: draw.randrange(len(content))]
    else:
        for _ in range(draw.randint(1, 20)):
            near_an_end = draw.choice([draw.randrange(3000), len(content) - 1 - draw.randrange(3000)])
            content[near_an_end % len(content)] = draw.randrange(256)
    file.write_bytes(content)


DOORS: dict[str, Door] = {
    "plan": plans,
    "batch": batches,
    "coco": coco_files,
    "results": results,
    "recipe": recipes,
    "checkpoint": checkpoints,
}


# ---- running


def try_door(name: str, count: int, seed: int) -> tuple[Counter[str], dict[object, str]]:
    """How many inputs were used and refused, and one failure of each kind."""
    ends: Counter[str] = Counter()
    failures: dict[object, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        try_one = DOORS[name](Path(folder))
        for case in range(seed, seed + count):
            try:
                try_one(random.Random(case))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is looked at
                if is_ours(error):
                    ends["refused"] += 1
                    continue
                ends["failed"] += 1
                ours = [at for at in traceback.extract_tb(error.__traceback__) if at.filename.startswith(PACKAGE)]
                kind = (type(error), ours[-1].filename, ours[-1].lineno) if ours else type(error)
                shown = "".join(traceback.format_exception(error))[-LONGEST_FAILURE:]
                failures.setdefault(kind, f"{name} --seed {case} --count 1\n{shown}")
            else:
                ends["used"] += 1
    return ends, failures


def main() -> int:
    """Try doors; the exit code is 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("doors", nargs="*", metavar="DOOR", help=f"of {', '.join(DOORS)}; default: all")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    failed = False
    for name in asked.doors or DOORS:
        ends, failures = try_door(name, asked.count, asked.seed)
        print(f"{name}: {ends['used']} used, {ends['refused']} refused, {ends['failed']} failed", flush=True)
        sys.stderr.writelines(failures.values())
        failed |= bool(failures) or not ends["used"]  # as those are to which nothing was done
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
