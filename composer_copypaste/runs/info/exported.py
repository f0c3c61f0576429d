"""What an exported model says of itself: an ONNX or a TorchScript file."""

import zipfile
import zlib
from pathlib import Path

from composer_copypaste.errors import CheckpointError, first_line
from composer_copypaste.models.exported import ExportMetadata
from composer_copypaste.models.weight_files import names_in_archive
from composer_copypaste.runs.info.description import Description, InfoTable, Value, detector_with_article

_MASKS = {
    "crops": "probabilities inside the boxes, 28 x 28",
    "pasted": "0 and 1, at the image's size",
    None: "none",
}
_FOREIGN = "not written by copypaste export, which copypaste predict needs: it cannot be run here"


def describe_onnx(path: Path) -> Description:
    """What an ONNX file of any program says of itself.

    Raises:
        CheckpointError: where onnxruntime cannot load it.
        UserError: where onnxruntime is missing.
    """
    from composer_copypaste.integrations.onnx import read_onnx_file  # most commands need no exported file

    found = read_onnx_file(path)
    facts: dict[str, Value] = {"inputs": ", ".join(found.inputs), "outputs": ", ".join(found.outputs)}
    facts |= {"written by": found.producer, "file, MB": _megabytes(path)}
    if found.metadata is None:
        facts["description"] = found.description or None
        return Description(path, "an ONNX file", facts, warnings=[_FOREIGN])
    facts["written by"] = f"copypaste export {found.version}"
    facts |= _metadata_facts(found.metadata)
    return Description(
        path,
        f"{detector_with_article(found.metadata.detector)} as an ONNX file",
        facts,
        [_category_table(found.metadata)],
    )


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive of TorchScript, which has compiled code where others have a pickle alone."""
    try:
        return any(name.endswith("/constants.pkl") for name in names_in_archive(path))
    except (OSError, zipfile.BadZipFile):
        return False


def describe_torchscript(path: Path) -> Description:
    """What a TorchScript file says of itself; no code in it is run.

    Raises:
        CheckpointError: where it has metadata of another version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            texts = {
                name.rpartition("/")[2]: archive.read(name).decode() for name in archive.namelist() if "/extra/" in name
            }
    except (EOFError, NotImplementedError, OverflowError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path}: damaged: {first_line(error)}") from error
    facts: dict[str, Value] = {"file, MB": _megabytes(path)}
    try:
        metadata = ExportMetadata.from_texts(texts)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: has metadata of another version ({error}); export the model again") from None
    if metadata is None:
        return Description(path, "a TorchScript file", facts, warnings=[_FOREIGN])
    facts |= {"written by": f"copypaste export {texts['composer_copypaste']}"} | _metadata_facts(metadata)
    return Description(
        path, f"{detector_with_article(metadata.detector)} as a TorchScript file", facts, [_category_table(metadata)]
    )


def _megabytes(path: Path) -> float:
    return round(path.stat().st_size / 1e6, 1)


def _metadata_facts(metadata: ExportMetadata) -> dict[str, Value]:
    images = metadata.image_settings
    values = images.value_range
    return {
        "masks": _MASKS[metadata.masks],
        "categories": len(metadata.categories),
        "largest image, megapixels": images.max_megapixels,
        "black and white in images of more than 8 bits": None if values is None else f"{values[0]:g} and {values[1]:g}",
    }


def _category_table(metadata: ExportMetadata) -> InfoTable:
    rows: list[list[Value]] = [[each.name, label, each.id] for label, each in metadata.categories.items()]
    return InfoTable("categories", ["category", "label", "id"], rows)
