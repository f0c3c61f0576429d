"""Annotations for hand-made COCO files."""

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]


def annotation(number: int = 1, **changes: object) -> dict[str, object]:
    """A 4 x 4 square at (2, 1) in image 7; ``key=None`` leaves the key out."""
    entry: dict[str, object] = {
        "id": number,
        "image_id": 7,
        "category_id": 5,
        "bbox": [2, 1, 4, 4],
        "area": 16,
        "iscrowd": 0,
        "segmentation": [SQUARE],
    }
    return {key: value for key, value in (entry | changes).items() if value is not None}
