"""What the trials of this folder share: a small data set, a batch, and commands of the installed package."""

import json
import subprocess
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIDE = 64


def write_data_set(folder: Path = Path()) -> tuple[Path, Path]:
    """Four images with two rectangles each: the folder of the images, and the COCO file."""
    images, annotations = folder / "images", []
    images.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(4):
        pixels = generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
        for left, top, width, height in ((4 + number, 6, 20, 14), (34, 30 + number, 18, 25)):
            right, bottom = left + width, top + height
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": 1 + len(annotations) % 2, "iscrowd": 0,
                "bbox": [left, top, width, height], "area": width * height,
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            })  # fmt: skip
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": SIDE, "height": SIDE} for n in range(4)],
        "categories": [{"id": 1, "name": "nut"}, {"id": 2, "name": "fig"}],
        "annotations": annotations,
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return images, path


def batch() -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Two images with one object each, in the form of torchvision's detection references."""
    masks = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    masks[0, 10:30, 10:30], masks[1, 35:55, 20:60] = True, True
    boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0], [20.0, 35.0, 60.0, 55.0]])
    targets = [
        {"boxes": boxes[[k]], "labels": torch.tensor([k + 1]), "masks": masks[[k]], "image_id": torch.tensor(k)}
        for k in range(2)
    ]
    return torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8), targets


def copypaste(*arguments: str) -> str:
    """What the installed command prints; it must succeed."""
    done = subprocess.run(["copypaste", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


def refuses(expected: str, *arguments: str) -> None:
    """Checks that the installed command ends with exit code 2, and with this line alone after what it loads."""
    done = subprocess.run(["copypaste", *arguments], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if not line.startswith("loading ")]
    assert (done.returncode, done.stdout, said) == (2, "", [f"error: {expected}"]), (arguments, done)
