"""For those who work with Detectron2; nothing else imports it. Where it is missing, importing this package says so."""

from importlib.util import find_spec

from composer_copypaste.errors import MissingPackageError

found = find_spec("detectron2")
if found is None or found.origin is None:  # without a file it is any folder of that name, as in a clone
    raise MissingPackageError(
        "Detectron2 is not installed, and is not on PyPI: build it from source as "
        "https://detectron2.readthedocs.io/en/latest/tutorials/install.html says"
    )
