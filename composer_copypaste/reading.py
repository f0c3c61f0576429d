"""Annotations as a recipe says they are read, and with the labels of the data that a model is trained on."""

from collections.abc import Sequence
from itertools import count
from pathlib import Path

from composer_copypaste.config.problems import shown
from composer_copypaste.config.schema import DataSettings
from composer_copypaste.data.coco import CocoAnnotations, InstanceData
from composer_copypaste.data.json_files import read_json
from composer_copypaste.data.records import Category
from composer_copypaste.errors import DataError, as_json, first_few, warn_of_data


def in_recipe(name: str, value: str) -> str:
    """How a key of the section ``data`` is given."""
    return f"data.{name}={value}"


def load_annotations(path: Path, settings: DataSettings) -> CocoAnnotations:
    """The annotations in a file.

    Raises:
        DataError: listing everything that is wrong with them.
    """
    return CocoAnnotations.load(path, crowds=settings.crowds, bad_objects=settings.bad_objects, spelling=in_recipe)


def trained_categories(path: Path) -> list[Category]:
    """The categories that the model of a run knows, as the run's folder keeps them.

    Raises:
        DataError: where the file holds anything else.
    """
    found = read_json(path, "file of categories")
    try:
        return [Category(**category) for category in found]
    except TypeError:
        raise DataError(
            f"{path}: expected a list of categories, each with 'id' and 'name', found {shown(found)}; "
            "put it back as it was"
        ) from None


def with_labels_of(data: InstanceData, trained: Sequence[Category], source: str) -> InstanceData:
    """The data with the labels of the categories that a model is trained on.

    Where its file gives them other ids, they are matched by name, and a line says so. It may lack some; of others it
    must have no object.

    Args:
        data: the data to be evaluated on.
        trained: in the order of their labels.
        source: where these are from, for messages.

    Raises:
        DataError: where the categories cannot be matched.
    """
    annotations, own = data.annotations, data.annotations.categories
    if list(own) == list(trained):
        return data
    ids, names = {category.name: category.id for category in own}, {category.name for category in trained}
    used = {annotation["category_id"] for group in annotations.annotations.values() for annotation in group}
    others = [category for category in own if category.name not in names and category.id in used]
    repeated = len(ids) < len(own) or len(names) < len(trained)
    if repeated or others or not ids.keys() & names:
        raise DataError(
            f"{annotations.path}: expected the categories of {source}, {_listed(trained)}; "
            + (f"got objects of others: {_listed(others)}" if others else f"got {_listed(own)}")
            + ("; names that occur twice cannot be matched" if repeated else "")
        )
    free = count(max(ids.values()) + 1)
    matched = tuple(Category(ids[c.name] if c.name in ids else next(free), c.name) for c in trained)
    pairs = [f"{ids[c.name]} here is {c.id} there, {as_json(c.name)}" for c in trained if ids.get(c.name, c.id) != c.id]
    lacking = [as_json(c.name) for c in trained if c.name not in ids]
    unknown = [as_json(c.name) for c in own if c.name not in names]
    differences = (f": {first_few(pairs)}" if pairs else "") + (f"; it lacks {first_few(lacking)}" if lacking else "")
    warn_of_data(
        f"{annotations.path}: its categories are not those of {source}; they are matched by name{differences}"
        + (f"; it also has, of no object, {first_few(unknown)}" if unknown else "")
    )
    return data.with_categories(matched)


def _listed(categories: Sequence[Category]) -> str:
    return first_few([f"{category.id} {as_json(category.name)}" for category in categories], 20)
