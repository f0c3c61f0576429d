"""The matches of an evaluation: which detections count as right at which IoU, image by image, in one compact file.

Average precision is a function of these alone, so it can be computed again for other weights of the images, without
masks, boxes or the engine: see ``weighted_precision.py``.
"""

import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, UInt8

from composer_copypaste.errors import DataError, count_noun
from composer_copypaste.files import atomic_write, check_regular_file
from composer_copypaste.metrics.matching import Matching
from composer_copypaste.metrics.scores import AREAS, IOUS, Array, IouType

FLAG_BYTES = AREAS * IOUS // 8

FORMAT = 1
"""The version of the file's layout, in the file."""


@dataclass(frozen=True, eq=False)
class MatchTable:
    """The detections of one IoU type, category by category, in each of them best first as COCOeval sorts them.

    Detections with equal scores are in the order of their images. Those beyond the last of ``max_dets`` in an image are
    left out. The rows of category number k are ``detection_starts[k]`` to ``detection_starts[k + 1]``.
    """

    detection_starts: Int64[Array, " categories_and_1"]
    scores: Float64[Array, " detections"]
    images: Int32[Array, " detections"]
    """Index of each detection's image."""
    matched: UInt8[Array, "detections flag_bytes"]
    """Packed bits (area range, IoU threshold): whether the detection has found an object."""
    ignored: UInt8[Array, "detections flag_bytes"]
    """Packed bits (area range, IoU threshold): whether the detection counts neither as right nor as wrong."""
    truth_starts: Int64[Array, " categories_and_1"]
    truth_images: Int32[Array, " truths"]
    """Index of each image with objects that count."""
    truth_counts: Int32[Array, "truths areas"]
    """The number of these objects in the image, by area range."""

    def detections(self, category: int) -> slice:
        """The rows of a category's detections."""
        return slice(int(self.detection_starts[category]), int(self.detection_starts[category + 1]))

    def truths(self, category: int) -> slice:
        """The rows of the images with objects of a category."""
        return slice(int(self.truth_starts[category]), int(self.truth_starts[category + 1]))


@dataclass(frozen=True, eq=False)
class EvaluationMatches:
    """The matches of all detections of an evaluation with the ground truth.

    Attributes:
        image_ids: The ids of all images, ascending.
        category_ids: The category ids in the order of the tables.
        category_names: Their names, no two alike.
        max_dets: Limits to the number of detections that count per image and category; the last one holds here.
        tables: The matches by IoU type.
    """

    image_ids: Int64[Array, " images"]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    max_dets: tuple[int, ...]
    tables: Mapping[IouType, MatchTable]

    def only(self, kinds: Collection[IouType]) -> "EvaluationMatches":
        """The same without the tables of other IoU types."""
        return replace(self, tables={kind: table for kind, table in self.tables.items() if kind in kinds})

    def __repr__(self) -> str:
        images, categories = len(self.image_ids), count_noun(len(self.category_ids), "category", "categories")
        return f"EvaluationMatches({', '.join([count_noun(images, 'image'), categories, *self.tables])})"

    def save(self, path: Path | str) -> None:
        """Write one compressed ``.npz`` file; it is complete whenever it is there."""
        header = {
            "format": np.array(FORMAT),
            "image_ids": self.image_ids,
            "category_ids": np.array(self.category_ids, dtype=np.int64),
            "category_names": np.array(self.category_names, dtype=np.str_),
            "max_dets": np.array(self.max_dets, dtype=np.int64),
            "iou_types": np.array(list(self.tables), dtype=np.str_),
        }
        columns = {
            f"{kind}_{field.name}": getattr(table, field.name)
            for kind, table in self.tables.items()
            for field in fields(MatchTable)
        }
        with atomic_write(Path(path)) as unfinished, unfinished.open("wb") as file:
            np.savez_compressed(file, **header, **columns)

    @classmethod
    def load(cls, path: Path | str) -> "EvaluationMatches":
        """Read what ``save`` has written.

        Raises:
            DataError: where there is no such file, or it holds something else.
        """
        try:
            check_regular_file(path)
            with np.load(path, allow_pickle=False) as arrays:
                return _from_arrays(arrays)
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such file of matches; an evaluation writes it") from None
        except (OSError, EOFError, LookupError, TypeError, AttributeError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: expected the matches that an evaluation writes: {error}") from None


def _from_arrays(arrays: Mapping[str, Array]) -> EvaluationMatches:
    """The matches in a file.

    Raises:
        ValueError: where columns disagree: compiled code reads them without a check.
    """
    if int(arrays["format"]) != FORMAT:
        raise ValueError(f"expected format {FORMAT}, found {arrays['format']}")
    image_ids, category_ids = arrays["image_ids"].astype(np.int64), arrays["category_ids"].tolist()
    kinds: list[IouType] = arrays["iou_types"].tolist()
    tables = {}
    for kind in kinds:
        columns = {field.name: arrays[f"{kind}_{field.name}"] for field in fields(MatchTable)}
        _check_columns(columns, len(category_ids), len(image_ids), kind)
        tables[kind] = MatchTable(**columns)
    return EvaluationMatches(
        image_ids=image_ids,
        category_ids=tuple(category_ids),
        category_names=tuple(arrays["category_names"].tolist()),
        max_dets=tuple(arrays["max_dets"].tolist()),
        tables=tables,
    )


def _check_columns(columns: Mapping[str, Array], categories: int, images: int, kind: str) -> None:
    detections, truths = columns["scores"].size, columns["truth_images"].size
    expected = {
        "detection_starts": (np.int64, (categories + 1,)),
        "scores": (np.float64, (detections,)),
        "images": (np.int32, (detections,)),
        "matched": (np.uint8, (detections, FLAG_BYTES)),
        "ignored": (np.uint8, (detections, FLAG_BYTES)),
        "truth_starts": (np.int64, (categories + 1,)),
        "truth_images": (np.int32, (truths,)),
        "truth_counts": (np.int32, (truths, AREAS)),
    }
    for name, (dtype, shape) in expected.items():
        found = columns[name]
        if found.dtype != np.dtype(dtype) or found.shape != shape:
            raise ValueError(f"{kind}_{name}: expected {np.dtype(dtype)} {shape}, found {found.dtype} {found.shape}")
    for name in ("images", "truth_images"):
        if ((columns[name] < 0) | (columns[name] >= images)).any():
            raise ValueError(f"{kind}_{name}: expected indices of {images} images")
    for name, count in (("detection_starts", detections), ("truth_starts", truths)):
        starts = columns[name]
        if starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
            raise ValueError(f"{kind}_{name}: expected ascending rows from 0 to {count}")


def build_match_table(matching: Matching, categories: int) -> MatchTable:
    """The table of one IoU type, given the number of categories."""
    found, truths = matching.detections, matching.objects.rows
    order = np.lexsort((-matching.scores, found.categories))  # equal scores stay in the order of their images
    counting = matching.objects.counted.any(axis=1)
    pairs, places = np.unique(
        np.stack([truths.categories, truths.images])[:, counting], axis=1, return_inverse=True
    )  # of a category and an image with objects
    counts = np.zeros((pairs.shape[1], AREAS), np.int32)
    np.add.at(counts, places.reshape(-1), matching.objects.counted[counting])
    numbers = np.arange(categories + 1)
    return MatchTable(
        detection_starts=np.searchsorted(found.categories[order], numbers),
        scores=matching.scores[order],
        images=found.images[order].astype(np.int32),
        matched=packed_flags(matching.matched)[order],
        ignored=packed_flags(matching.ignored)[order],
        truth_starts=np.searchsorted(pairs[0], numbers),
        truth_images=pairs[1].astype(np.int32),
        truth_counts=counts,
    )


def packed_flags(flags: Bool[Array, "detections areas ious"]) -> UInt8[Array, "detections flag_bytes"]:
    """The flags of each detection as bits."""
    return np.packbits(flags.reshape(-1, AREAS * IOUS), axis=1)


def unpacked_flags(packed: UInt8[Array, "detections flag_bytes"]) -> Bool[Array, "areas ious detections"]:
    """The packed bits, one row for each area range and IoU threshold."""
    bits = np.unpackbits(packed, axis=1).view(np.bool_)
    return np.ascontiguousarray(bits.T).reshape(AREAS, IOUS, len(packed))
