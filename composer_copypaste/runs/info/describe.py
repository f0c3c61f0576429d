"""``describe_file``: what a file or a folder is, and what is in it."""

from pathlib import Path

from composer_copypaste.errors import DataError, RecipeError
from composer_copypaste.files import check_regular_file, describe_non_json, read_json
from composer_copypaste.runs.info.data_sets import describe_annotations, describe_results
from composer_copypaste.runs.info.description import Description
from composer_copypaste.runs.info.evaluations import describe_matches, describe_report, is_report
from composer_copypaste.runs.info.folders import describe_folder

MODELS = (".onnx", ".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl")


def describe_file(path: Path | str, *, images: Path | str | None = None) -> Description:
    """What a checkpoint, an exported model, a COCO file or a folder holds, and what is wrong with it.

    Everything is read, and nothing of it is run. Problems are collected, all of them: the first does not hide others.

    Args:
        path: a checkpoint or state dict; an ONNX or TorchScript file; a COCO file of annotations, of images alone or of
            results; the scores or matches of an evaluation; or a folder that this package has written.
        images: the folder of a data set's images: the header of each is read too.

    Raises:
        UserError: where it is none of these, or cannot be read at all.

    Example:
        >>> print(describe_file("train.json"))
        >>> describe_file("runs/mine").to_json()["facts"]["complete"]
    """
    path, folder = Path(path), None if images is None else Path(images)
    if path.is_dir():
        return describe_folder(path, folder)
    if path.suffix.lower() == ".npz":
        return describe_matches(path)
    if path.suffix.lower() in MODELS or _is_archive(path):
        return _describe_model(path, folder)
    if path.suffix.lower() in (".yaml", ".yml"):
        raise DataError(f"{path}: a YAML file; 'copypaste recipe show {path}' shows recipes")
    if (kind := _describe_other_file(path)) is not None:
        raise DataError(f"{path}: expected a COCO file, weights, or an exported model, got {kind}")
    content = read_json(path, "file")
    if is_report(content):
        return describe_report(content, path)
    return describe_results(content, path) if _is_results(content) else describe_annotations(content, path, folder)


def _describe_model(path: Path, folder: Path | None) -> Description:
    """What weights or an exported model hold. What reads them takes seconds to import, and other files need it not."""
    from composer_copypaste.runs.info.checkpoints import describe_checkpoint
    from composer_copypaste.runs.info.exported import describe_onnx, describe_torchscript, is_torchscript

    if path.suffix.lower() == ".onnx":
        return describe_onnx(path)
    if is_torchscript(path):
        return describe_torchscript(path)
    if folder is not None:
        raise RecipeError(f"{path}: weights have no images; leave out the folder")
    return describe_checkpoint(path)


def _describe_other_file(path: Path) -> str | None:
    """What a file is that is no JSON, as far as its first bytes tell; None: JSON, or not known."""
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            return describe_non_json(file.read(4096))
    except OSError:
        return None  # the reader of JSON says why


def _is_archive(path: Path) -> bool:
    """Whether a file begins as those of torch.save do."""
    try:
        check_regular_file(path)
        with path.open("rb") as file:
            return file.read(4) in (b"PK\x03\x04", b"\x80\x02ci", b"\x80\x02\x8a\x0a")
    except OSError:
        return False  # the reader of JSON says why


def _is_results(content: object) -> bool:
    """Whether JSON is a list of results; an empty list is one in which nothing was found."""
    if not isinstance(content, list):
        return False
    return not content or (isinstance(content[0], dict) and {"image_id", "category_id", "score"} <= content[0].keys())
