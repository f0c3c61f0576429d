"""Data sets of Detectron2's catalog here, and ours in its catalog.

Class ``i`` there is label ``i + 1`` here, and both stand for the same category id of the data set.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, PolygonMasks
from detectron2.utils.file_io import PathManager

from composer_copypaste.data.annotation_json import CocoAnnotation, CocoImage, ReadingOptions
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.coco_write import write_coco
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.errors import DataError, did_you_mean, first_few
from composer_copypaste.files import read_json

Record = Mapping[str, Any]
"""An image of a data set in Detectron2's form."""


# Theirs, here


def registered_data_set(name: str, **options: Any) -> CocoInstances:
    """A data set of Detectron2's catalog, with torchvision's images and targets.

    One that ``register_coco_instances`` has registered is read from its file, as Detectron2's evaluator reads it; of
    others, the registered function gives the images and annotations. Labels are Detectron2's classes + 1; category ids
    are the data set's own, so that results have the same ones as Detectron2's.

    Args:
        name: in the catalog, such as "coco_2017_train"; what registers it has been imported.
        **options: of :class:`CocoInstances`, such as ``transform`` and ``masks``.

    Raises:
        DataError: no such name, or data that cannot be used.

    Example:
        >>> data = registered_data_set("balloons_train")
        >>> trainer = Trainer(model, train_dataloader=training_data_spec(data, batch_size=4))
    """
    content, folder, place = _content(name)
    annotations = CocoAnnotations.of_content(content, place, ReadingOptions())
    return CocoInstances(folder, _in_order_of_classes(annotations, name), **options)


def write_registered_data_set(name: str, path: Path | str) -> Path:
    """Write the annotations of a data set of Detectron2's catalog as a COCO file, for commands and recipes.

    Args:
        name: in the catalog.
        path: the file, which is replaced if it is there; its folder exists.

    Returns:
        The folder that the file names in it are relative to: what a recipe calls ``images``.

    Raises:
        DataError: no such name, or data that cannot be used.
    """
    content, folder, _ = _content(name)
    write_coco(Path(path), content)
    return folder


def _content(name: str) -> tuple[dict[str, Any], Path, Path]:
    """A registered data set as the content of a COCO file, the folder of its images, and its name in messages."""
    if name not in DatasetCatalog:
        hint = did_you_mean(name, DatasetCatalog.list()) or "import what registers it first"
        raise DataError(f"{name}: Detectron2's DatasetCatalog has no such data set; {hint}")
    metadata = MetadataCatalog.get(name)
    if metadata.get("evaluator_type") == "coco" and metadata.get("json_file") and metadata.get("image_root"):
        path = Path(PathManager.get_local_path(metadata.json_file))
        return read_json(path, "annotation file"), Path(PathManager.get_local_path(metadata.image_root)), path
    records = DatasetCatalog.get(name)
    _check_records(name, records)
    return *_content_of_records(name, records), Path(name)


def _check_records(name: str, records: Sequence[Record]) -> None:
    """Raise ``DataError`` where the registered function or the metadata lack what is needed."""
    if not MetadataCatalog.get(name).get("thing_classes"):
        raise DataError(
            f"{name}: its metadata have no names of classes; "
            f"MetadataCatalog.get({name!r}).thing_classes = [...] gives them"
        )
    for number, record in enumerate(records):
        for key in ("file_name", "height", "width"):
            if key not in record:
                raise DataError(f"{name}: image {number}: expected 'file_name', 'height' and 'width', got no {key!r}")
        for annotation in record.get("annotations", ()):
            if len(annotation["bbox"]) != 4:
                raise DataError(
                    f"{name}: image {number} ({record['file_name']}): expected boxes of 4 numbers, got "
                    f"{len(annotation['bbox'])}: rotated boxes cannot be used"
                )


def _content_of_records(name: str, records: Sequence[Record]) -> tuple[dict[str, Any], Path]:
    """The content of a COCO file, and the folder that all of its images lie in.

    Images whose ids are no whole numbers are numbered from 1: COCO's ids are whole numbers. Detectron2's own
    ``convert_to_coco_dict`` changes the records that it converts, and is therefore not used.
    """
    paths = [os.path.abspath(PathManager.get_local_path(str(record["file_name"]))) for record in records]
    folder = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else "."
    ids = [record.get("image_id", number) for number, record in enumerate(records)]
    if not all(isinstance(image_id, int) for image_id in ids):
        ids = list(range(1, len(records) + 1))
    images = [
        {
            "id": image_id,
            "file_name": Path(os.path.relpath(path, folder)).as_posix(),
            "height": int(record["height"]),
            "width": int(record["width"]),
        }
        for image_id, path, record in zip(ids, paths, records, strict=True)
    ]
    category_ids = _category_ids(name)
    annotations = [
        {"image_id": image_id, "category_id": category_ids[annotation["category_id"]], **_outline(annotation)}
        for image_id, record in zip(ids, records, strict=True)
        for annotation in record.get("annotations", ())
    ]
    categories = zip(category_ids, MetadataCatalog.get(name).thing_classes, strict=True)
    content = {
        "categories": [{"id": category_id, "name": class_name} for category_id, class_name in categories],
        "images": images,
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
    }
    return content, Path(folder)


def _category_ids(name: str) -> list[int]:
    """The category id of each class: as the metadata say, else the class's number, as in Detectron2's results.

    Raises:
        DataError: where the metadata give no category id of a class, or several.
    """
    metadata = MetadataCatalog.get(name)
    numbers = range(len(metadata.thing_classes))
    classes = metadata.get("thing_dataset_id_to_contiguous_id")
    if classes is None:
        return list(numbers)
    if sorted(classes.values()) != list(numbers):
        raise DataError(
            f"{name}: expected a category id for each of its {len(numbers)} classes, 0 to {len(numbers) - 1}, in "
            f"thing_dataset_id_to_contiguous_id of its metadata, got {dict(classes)}"
        )
    return sorted(classes, key=lambda category_id: classes[category_id])


def _outline(annotation: Mapping[str, Any]) -> dict[str, Any]:
    """Box, outline and crowd of an annotation as COCO has them; the area is that which Detectron2 gives polygons."""
    box = BoxMode.convert([float(x) for x in annotation["bbox"]], annotation["bbox_mode"], BoxMode.XYWH_ABS)
    fields = {"bbox": box, "iscrowd": int(annotation.get("iscrowd", 0))}
    outline = annotation.get("segmentation")
    if isinstance(outline, list):
        polygons = [[float(x) for x in polygon] for polygon in outline]
        return {**fields, "area": float(PolygonMasks([polygons]).area()[0]), "segmentation": polygons}
    if isinstance(outline, dict) and isinstance(outline["counts"], bytes):
        outline = {**outline, "counts": outline["counts"].decode()}
    return fields | ({} if outline is None else {"segmentation": outline})


def _in_order_of_classes(annotations: CocoAnnotations, name: str) -> CocoAnnotations:
    """The annotations with categories in the order of Detectron2's classes, where the metadata has one."""
    classes = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    if classes is None:
        return annotations
    if lacking := [category.id for category in annotations.categories if category.id not in classes]:
        raise DataError(
            f"{name}: thing_dataset_id_to_contiguous_id of its metadata has no class for the data's category ids "
            f"{first_few(lacking)}"
        )
    return annotations.with_categories(tuple(sorted(annotations.categories, key=lambda own: classes[own.id])))


# Ours, there


def register_data_set(name: str, data: CocoInstances) -> None:
    """Put a data set of ours into Detectron2's catalog.

    ``register_coco_instances(name, {}, annotations, images)`` of Detectron2 does that with any COCO file that we write;
    this does it with data as we read them: crowds as asked for, holes of polygons, boxes that enclose their masks.
    Masks that are run lengths need ``INPUT.MASK_FORMAT: bitmask`` there.

    Args:
        name: not yet in the catalog.
        data: its ``transform`` is not used; Detectron2 reads the files.

    Raises:
        DataError: where the name is taken.
    """
    if name in DatasetCatalog:
        raise DataError(f"{name}: Detectron2's DatasetCatalog has a data set of this name; choose another")
    classes = {category.id: number for number, category in enumerate(data.categories)}
    annotations = data.annotations
    DatasetCatalog.register(
        name,
        lambda: [
            _record(data.images, image, [_annotation(each, classes) for each in annotations.annotations[image.id]])
            for image in annotations.images
        ],
    )
    MetadataCatalog.get(name).set(
        thing_classes=[category.name for category in data.categories],
        thing_dataset_id_to_contiguous_id=classes,
        image_root=str(data.images),
        evaluator_type="coco",
    )


def _record(folder: Path, image: CocoImage, annotations: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "file_name": str(folder / image.file_name),
        "image_id": image.id,
        "height": image.height,
        "width": image.width,
        "annotations": annotations,
    }


def _annotation(annotation: CocoAnnotation, classes: Mapping[int, int]) -> dict[str, Any]:
    outline = annotation["segmentation"]
    return {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[annotation["category_id"]],
        "iscrowd": annotation["iscrowd"],
        "segmentation": [part.tolist() for part in outline] if isinstance(outline, list) else dict(outline),
    }
