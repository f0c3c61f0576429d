"""Packages that not every installation has, and the extras that bring them."""

from importlib.util import find_spec

from composer_copypaste.errors import MissingPackageError


def is_installed(package: str) -> bool:
    """Whether a package can be imported; a folder of that name, as in a clone, is none."""
    found = find_spec(package)
    return found is not None and found.origin is not None


def check_installed(package: str, need: str, extra: str) -> None:
    """Raise ``MissingPackageError`` where a package is missing.

    Args:
        package: by the name that it is imported by.
        need: who needs what, such as "ONNX files need onnx".
        extra: the extra of this package that brings it.
    """
    if not is_installed(package):
        raise MissingPackageError(f"{need}, which is not installed: pip install 'composer-copypaste[{extra}]'")


def check_composer() -> None:
    """Raise ``MissingPackageError`` where Composer is missing."""
    check_installed("composer", "training, CopyPaste and MaskRCNN need MosaicML Composer", "composer")
