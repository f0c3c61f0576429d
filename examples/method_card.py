"""Draws the method card: what each setting of copy-paste does, in small images of drawn shapes.

``python examples/method_card.py`` writes ``docs/*.png`` for docs/settings.md; a test draws them again and compares.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from card import (
    AS_THEY_ARE,
    Cell,
    bars,
    cell,
    class_ids,
    close,
    curve,
    four,
    from_bank,
    from_pool,
    ids_of,
    image_of,
    images,
    in_scene,
    jittered,
    jittered_class_ids,
    labelled,
    own,
    pair,
    rotated_boxes,
    sheet,
)
from PIL import Image
from torchvision.transforms import v2

from composer_copypaste import CocoAnnotations, copypaste_batch, plan_batch, rare_category_weights
from composer_copypaste.data.annotation_json import Category, CocoImage

COLORS = 255
"""Number of colors of a sheet's file, few enough to keep it small."""


def how_often() -> list[Cell]:
    return [
        ("an image of the batch", image_of(images()[0])),
        ("another one, the source\n(all examples: these two)", image_of(images()[1])),
        four("p=0.5\nfour draws", p=0.5),
        curve('warmup="20%dur"', [(0, 0), (0.2, 1), (1, 1)], ["0", "time", "1"]),
        curve('stop="80%dur"', [(0, 1), (0.8, 1), (0.8, 0), (1, 0)], ["0", "time", "1"]),
    ]


def source() -> list[Cell]:
    return [
        ("a batch of one image", image_of(images()[0])),
        ("a batch before it", image_of(images()[1])),
        from_bank("bank_size=256: earlier\nimages are sources", 256),
        from_bank("bank_size=1\nthe last object seen", 1),
        own('source="self"\nits own, mirrored', p_flip=1.0, max_copied_instances=1),
        own('source="self"\nresized and moved', 1, placement="random", scale_range=(0.4, 0.6)),
        from_pool("p_pool=1: cut-outs\nof a pool (star, rectangle)", 3),
        from_pool("pool_instances=(9, 9)\nnine cut-outs", 1, pool_instances=(9, 9)),
        from_pool("pool_scale_range=\n(0.3, 1.2), for each", 2, pool_instances=(4, 4), pool_scale_range=(0.3, 1.2)),
    ]


def selection() -> list[Cell]:
    names = ["disc", "rectangle", "star"]
    return [
        four("p_instance=None\na random number", p_instance=None),
        four("p_instance=0.3", p_instance=0.3),
        four("max_copied_instances=1", max_copied_instances=1),
        cell('categories=("disc", "star")\nor labels=(1, 4)', categories=("disc", "star")),
        bars("category_weights=None\nwhat 1000 draws copy", shares(), names),
        bars("label_weights={2: 5}\n2: the rectangle", shares(label_weights={2: 5.0}), names),
        bars(
            'category_weights=\n"inverse_frequency"',
            counted_weights("inverse_frequency"),
            FRACTIONS,
        ),
        bars(
            '"repeat_factor" and\nrepeat_threshold=0.1',
            counted_weights("repeat_factor", threshold=0.1),
            FRACTIONS,
        ),
        cell("area_range=(1500, 9999)\npixels of the mask", area_range=(1500.0, 9999.0)),
        cell("relative_area_range=\n(0, 0.1) of the image", relative_area_range=(0.0, 0.1)),
    ]


FRACTIONS = ["in 50%", "in 5%", "in 0.5%"]
"""Of the images of a data set, those that have each of three categories."""


def counted_weights(how: str, **options: float) -> list[float]:
    """The weights of three categories, of which 100, 10 and 1 of 200 images have one object each."""
    categories = tuple(Category(number, name) for number, name in enumerate(FRACTIONS))
    images = tuple(CocoImage(number, f"{number}.jpg", 8, 8) for number in range(200))
    objects = {
        image.id: tuple({"category_id": k, "iscrowd": 0} for k in range(3) if image.id < (100, 10, 1)[k])
        for image in images
    }
    annotations = CocoAnnotations(Path("counted.json"), images, categories, objects)
    return list(rare_category_weights(annotations, how, **options).values())


def shares(**settings: object) -> list[int]:
    """How often the source's disc, rectangle and star are copied in 1000 draws of one object."""
    batch, targets = zip(*pair(), strict=True)
    generator, chosen = torch.Generator().manual_seed(0), []
    alone = AS_THEY_ARE | {"p_instance": None, "max_copied_instances": 1} | settings
    for _ in range(1000):
        plan = plan_batch(list(batch), list(targets), generator=generator, **alone)
        chosen += [int(plan.instance[row]) for row in range(len(plan)) if plan.target[row] == 0]
    labels = targets[1]["labels"][chosen].tolist()
    return [labels.count(label) for label in (1, 2, 4)]


def factors(**settings: object) -> list[int]:
    """Histogram of 2000 resize factors, in ten bins from 0.1 to 2."""
    target = {"boxes": torch.tensor([[0.0, 0, 8, 8]]), "labels": torch.tensor([1])}
    plan = plan_batch(
        torch.zeros(2000, 3, 8, 8),
        [target] * 2000,
        generator=torch.Generator().manual_seed(0),
        **(AS_THEY_ARE | {"scale_range": (0.1, 2.0)} | settings),
    )
    return np.histogram(1 / plan.to_source[:, 0, 0].numpy(), bins=10, range=(0.1, 2.0))[0].tolist()


def jitter() -> list[Cell]:
    places = {"scale_range": (0.4, 1.2), "rotation": 40.0}
    return [
        cell('jitter="image"\none transform for all', 0, jitter="image", **places),
        cell('jitter="instance"\none for each', 8, jitter="instance", **places),
        cell("scale_range=(0.5, 0.5)", 2, scale_range=(0.5, 0.5)),
        cell("scale_range=(1.4, 1.4)", 2, scale_range=(1.4, 1.4)),
        bars('scale_distribution=\n"uniform": factors drawn', factors(), ["0.1", "1.05", "2"], to_the_edges=True),
        bars(
            'scale_distribution=\n"log_uniform"',
            factors(scale_distribution="log_uniform"),
            ["0.1", "1.05", "2"],
            to_the_edges=True,
        ),
        cell("aspect_range=(2, 2)\nwidth over height", aspect_range=(2.0, 2.0), jitter="instance"),
        cell("p_flip=1", p_flip=1.0),
        cell("p_flip_vertical=1", p_flip_vertical=1.0),
        cell("rotation=45\nup to 45 degrees", 1, rotation=45.0, jitter="instance"),
        cell("brightness=0.6\ntimes 0.4 to 1.6, for each", 3, brightness=0.6, jitter="instance"),
        cell("contrast=0.9\nabout its mean grey", 3, contrast=0.9, jitter="instance"),
        cell("saturation=1\nabout each pixel's grey", 3, saturation=1.0, jitter="instance"),
    ]


def placement() -> list[Cell]:
    half = {"scale_range": (0.6, 0.6), "jitter": "instance"}
    return [
        cell('placement="source"\nwhere the source has it', placement="source"),
        cell('placement="near"\nup to max_shift=0.5 away', 2, placement="near", max_shift=0.5, **half),
        cell('placement="random"\ninside the image', 3, placement="random", **half),
        cell('placement="anywhere"\nmay be partly outside', 3, placement="anywhere", **half),
        cell("max_overlap=1\nany overlap", 4, placement="random", **half),
        cell("max_overlap=0\nnot over own boxes", 4, placement="random", max_overlap=0.0, placement_tries=99, **half),
        cell(
            'overlap_by="mask"\nnot over own pixels',
            4,
            placement="random",
            max_overlap=0.0,
            overlap_by="mask",
            placement_tries=99,
            **half,
        ),
        cell('max_overlap=0.5 with\nplacement="source"', max_overlap=0.5),
        cell(
            "least_overlap_first=True\nmax_copied_instances=1",
            max_copied_instances=1,
            least_overlap_first=True,
        ),
        cell(
            "placement_tries=1\nleft out if it fails",
            4,
            placement="random",
            max_overlap=0.0,
            placement_tries=1,
            **half,
        ),
    ]


REGION = [(0.05, 0.55), (0.6, 0.55), (0.95, 0.95), (0.05, 0.95)]
ROAD = [(0.5, 1), (0.5, 0.625), (1, 0.625)]


def in_scenes() -> list[Cell]:
    anywhere = {"placement": "anywhere", "scale_range": (0.4, 0.4), "jitter": "instance"}
    inside = {"placement": "random", "placement_tries": 99, "jitter": "instance"}
    half, shown = [(0.5, 0), (0.5, 1)], [[*REGION, REGION[0]]]
    return [
        in_scene("place_region=[...]: their\ncentres lie inside", 1, shown, place_region=REGION, **anywhere),
        in_scene(
            'place_point="bottom"\nthey stand inside', 1, shown, place_region=REGION, place_point="bottom", **anywhere
        ),
        in_scene("place_map=[[9, 1]]\nleft is more likely", 2, [half], place_map=[[9, 1]], **anywhere),
        in_scene('place_key="road": each\nimage has its own', 2, [ROAD], place_key="road", **anywhere),
        in_scene(
            "vanishing_line=0.2\nfar things are small",
            5,
            [[(0, 0.2), (1, 0.2)]],
            vanishing_line=0.2,
            place_point="bottom",
            **inside,
        ),
        in_scene(
            "scale_map=[[2.5, 1]]\nlarge on the left", 7, [half], scale_map=[[2.5, 1]], scale_range=(0.6, 0.6), **inside
        ),
    ]


def blending() -> list[Cell]:
    return [
        ("a pasted disc's border,\nshown 4 times as large", close("")[1]),
        close("erosion=2\nmask and colors shrink", erosion=2),
        close("blend_sigma=1\ncolors blend, masks stay", blend_sigma=1.0),
        close("blend_sigma=3", blend_sigma=3.0),
        close("blend_sigma=(0, 5)\ndrawn for each object", 1, blend_sigma=(0.0, 5.0)),
        close("erosion=2,\nblend_sigma=1", erosion=2, blend_sigma=1.0),
    ]


def colors() -> list[Cell]:
    return [
        cell("before: colors of\nthe source"),
        cell('color_transfer=\n"reinhard"', color_transfer="reinhard"),
        cell('"reinhard" and\ntransfer_strength=1', color_transfer="reinhard", transfer_strength=1.0),
        cell('color_transfer=\n"histogram"', color_transfer="histogram"),
        cell(
            "transfer_strength=(0, 1)\ndrawn for each object", color_transfer="histogram", transfer_strength=(0.0, 1.0)
        ),
        cell('blend_mode="poisson"\nkeeps its contrasts', blend_mode="poisson"),
        close('blend_mode="poisson"\nshown 4 times as large', blend_mode="poisson"),
        cell("object_transform=\nRandomPerspective(p=1)", 1, object_transform=v2.RandomPerspective(p=1.0)),
    ]


def truth() -> list[Cell]:
    ids = [ids_of(target) for _, target in pair()]
    ids[1][pair()[1][1]["masks"][2]] = 255
    batch = torch.stack(images())

    def semantic(nothing: int = 0, **settings: object) -> torch.Tensor:
        maps, generator = torch.stack(ids), torch.Generator().manual_seed(0)
        maps[maps == 0] = nothing
        return copypaste_batch(batch, maps, generator=generator, **(AS_THEY_ARE | settings))[1][0]

    return [
        labelled("before: masks and boxes", p=0.0),
        labelled("after: what is hidden is\ncut off, boxes are tight"),
        labelled("min_visibility=0.7\nthe triangle is dropped", min_visibility=0.7),
        labelled("min_area=500\nthe rectangle is dropped", min_area=500, scale_range=(0.8, 0.8)),
        class_ids("class ids of the source\n(hatched: unlabelled)", ids[1]),
        class_ids("ignore_index=255\nunlabelled: not copied", semantic()),
        class_ids("ignore_index=None\ncopied like other classes", semantic(ignore_index=None)),
        class_ids("background=9\n9 is no object", semantic(9, background=9), background=9),
        rotated_boxes('geometry={"obb":\n"obb_radians"}: follow'),
        rotated_boxes('hidden_geometry=\n"whole": as they were', hidden_geometry="whole"),
    ]


def large_scale_jitter() -> list[Cell]:
    return [
        jittered("size=(96, 128)\nresized and padded", size=(96, 128), scale_range=(1.0, 1.0)),
        jittered("scale_range=(0.5, 0.5)\npadded", scale_range=(0.5, 0.5)),
        jittered("scale_range=(1.8, 1.8)\ncropped at random", 3, scale_range=(1.8, 1.8)),
        jittered("p_flip=1", scale_range=(1.0, 1.0), p_flip=1.0),
        jittered("min_area=500\nthe rectangle is dropped", scale_range=(0.8, 0.8), min_area=500),
        jittered_class_ids("ignore_index=255: class\nid of the padding", scale_range=(0.5, 0.5), ignore_index=255),
        rotated_boxes('geometry={"obb":\n"obb_radians"}: follow', 3, jitter=True, scale_range=(1.8, 1.8)),
        rotated_boxes(
            'hidden_geometry=\n"whole": uncut', 3, jitter=True, scale_range=(1.8, 1.8), hidden_geometry="whole"
        ),
    ]


SHEETS: dict[str, Callable[[], list[Cell]]] = {
    "how_often": how_often,
    "source": source,
    "selection": selection,
    "jitter": jitter,
    "placement": placement,
    "scene": in_scenes,
    "blending": blending,
    "colors": colors,
    "truth": truth,
    "large_scale_jitter": large_scale_jitter,
}


def write(folder: Path) -> None:
    """Write every sheet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, cells in SHEETS.items():
        few = sheet(cells()).quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs")
