"""The official annotations of a data set, whose own areas and crowds exact COCO numbers need."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from composer_copypaste.data.coco import CocoAnnotations
from composer_copypaste.data.coco_json import ReadingOptions
from composer_copypaste.data.json_files import read_json
from composer_copypaste.data.records import CocoAnnotation, CocoImage
from composer_copypaste.garbage_collection import garbage_collection_paused
from composer_copypaste.metrics.engine import CocoDict

IN_MEMORY = Path("annotations")
"""What parsed content is called in messages."""


@dataclass(frozen=True, eq=False)
class OfficialTruth:
    """The annotations of a COCO instance file. It is never modified, so copies of a metric share it."""

    source: CocoAnnotations
    masks: bool
    """Whether masks are scored."""

    def __deepcopy__(self, memo: dict[int, object]) -> "OfficialTruth":
        return self

    @cached_property
    def images(self) -> Mapping[int, CocoImage]:
        """The images by id."""
        return {image.id: image for image in self.source.images}

    @cached_property
    def categories(self) -> Mapping[int, str]:
        """The names of the categories by id."""
        return {category.id: category.name for category in self.source.categories}

    def size(self, image_id: int) -> tuple[int, int]:
        """The image's height and width in pixels."""
        image = self.images[image_id]
        return image.height, image.width

    def category_ids(self, image_id: int) -> set[int]:
        """The categories that are annotated in the image."""
        return {annotation["category_id"] for annotation in self.source.annotations[image_id]}

    def annotations(self, image_id: int) -> Iterator[CocoDict]:
        """What the engines need of the image's annotations, and nothing else: they are strict with other keys."""
        for annotation in self.source.annotations[image_id]:
            entry: CocoDict = {
                "category_id": annotation["category_id"],
                "bbox": [float(number) for number in annotation["bbox"]],
                "area": annotation["area"],
                "iscrowd": annotation["iscrowd"],
            }
            yield entry | {"segmentation": _plain(annotation)} if self.masks else entry


def official_truth(source: Path | CocoDict | CocoAnnotations, *, masks: bool) -> OfficialTruth:
    """The annotations in a file, in its parsed content, or loaded already; with ``masks`` each must have an outline.

    Raises:
        DataError: where the file cannot be read, or cannot be scored against; the problems are listed together.
    """
    if isinstance(source, CocoAnnotations):
        return OfficialTruth(source, masks)
    options = ReadingOptions(pictures=False, outlines=masks)
    with garbage_collection_paused():
        path = source if isinstance(source, Path) else IN_MEMORY
        content = read_json(path, "annotation file") if isinstance(source, Path) else _own_list(source)
        return OfficialTruth(CocoAnnotations.of_content(content, path, options), masks)


def _own_list(data: object) -> object:
    """The content with a list of annotations that may be emptied."""
    if isinstance(data, dict) and isinstance(data.get("annotations"), list):
        return {**data, "annotations": list(data["annotations"])}
    return data


def _plain(annotation: CocoAnnotation) -> object:
    outline = annotation["segmentation"]
    return [part.tolist() for part in outline] if isinstance(outline, list) else dict(outline)
