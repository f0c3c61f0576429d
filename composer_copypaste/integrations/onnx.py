"""A detector as an ONNX file: written from the torch model, and run by onnxruntime without it."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from pycocotools import mask as coco_masks
from torch import Tensor

from composer_copypaste import __version__
from composer_copypaste.errors import CheckpointError
from composer_copypaste.extras import check_installed
from composer_copypaste.models.exported import ExportedOutputs, ExportMetadata, describe_outputs
from composer_copypaste.models.postprocess import DetectionDict, RawDetectionDict, encode_detection
from composer_copypaste.models.predictor import Predictor
from composer_copypaste.models.single_image import INPUT, SingleImage
from composer_copypaste.models.weight_files import check_readable

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

OPSET = 17
"""The version of ONNX's operators: the newest that torch 2.6 traces to without gaps, known to all runtimes of today."""

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
"""What may run a file, the fastest first."""


def check_onnx_installed(*packages: str) -> None:
    """Raise ``MissingPackageError`` where one of these packages is missing; running a file needs onnxruntime alone."""
    for package in packages or ("onnx", "onnxruntime"):
        check_installed(package, f"ONNX files need {package}", "onnx")


# ---- writing


def write_onnx(module: SingleImage, example: UInt8[Tensor, "h w 3"], metadata: ExportMetadata, path: Path) -> None:
    """Write a module as an ONNX file that takes images of any size.

    Args:
        module: the model with all that comes before and after it.
        example: an image to trace the computation with; its size does not matter.
        metadata: is written into the file.
        path: the file, which is overwritten.
    """
    import onnx

    axes = {name: {0: "objects"} for name in metadata.outputs}
    if metadata.masks == "pasted":
        axes["masks"] |= {1: "height", 2: "width"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch and torchvision warn of their own constants, which are right
        torch.onnx.export(
            module,
            (example,),
            str(path),
            dynamo=False,  # the newer exporter cannot trace torchvision's detectors
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(metadata.outputs),
            dynamic_axes={INPUT: {0: "height", 1: "width"}, **axes},
        )
    model = onnx.load_model_from_string(path.read_bytes())
    model.doc_string = describe_outputs(metadata)
    onnx.helper.set_model_props(model, metadata.as_texts())
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


# ---- running


@dataclass(frozen=True)
class OnnxFile:
    """What an ONNX file says of itself."""

    inputs: tuple[str, ...]
    """Name, type and shape of each."""
    outputs: tuple[str, ...]
    producer: str
    description: str
    metadata: ExportMetadata | None
    """None: the file was not written by ``copypaste export``."""
    version: str | None
    """The version of this package that wrote it."""


def read_onnx_file(path: Path) -> OnnxFile:
    """What an ONNX file of any program says of itself; errors are those of ``OnnxDetector``."""
    session = _open_session(path)
    meta = session.get_modelmeta()
    version = meta.custom_metadata_map.get("composer_copypaste")
    metadata = None if version is None else _read_metadata(session, path)
    inputs, outputs = (tuple(map(_signature, ends)) for ends in (session.get_inputs(), session.get_outputs()))
    return OnnxFile(inputs, outputs, meta.producer_name, meta.description, metadata, version)


class OnnxDetector:
    """An ONNX file that ``write_onnx`` wrote, ready to run on the GPU where onnxruntime has one, else on the CPU.

    Raises:
        CheckpointError: where the file cannot be read, or was written by something else.
        MissingPackageError: where onnxruntime is missing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session = _open_session(path)
        self.metadata = _read_metadata(self._session, path)

    def __call__(self, image: UInt8[Tensor, "3 h w"]) -> ExportedOutputs:
        """What the model finds in an image: RGB, on the host."""
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        with _errors_of_onnxruntime(self._path):
            outputs = self._session.run(list(self.metadata.outputs), {INPUT: pixels})
        return ExportedOutputs(*map(torch.from_numpy, outputs))

    def detect(self, images: Sequence[UInt8[Tensor, "3 _h _w"]]) -> list[DetectionDict]:
        """The detections in each image."""
        between_pixels = self.metadata.style == "detectron2"
        return [
            _encode_outputs(self(image), (image.shape[1], image.shape[2]), between_pixels=between_pixels)
            for image in images
        ]


def load_onnx_predictor(path: Path) -> Predictor:
    """A predictor that runs an exported ONNX file; no torch model is built.

    Raises:
        CheckpointError: where the file cannot be read, or was written by something else.
        MissingPackageError: where onnxruntime is missing.
    """
    model = OnnxDetector(path)
    return Predictor(model.detect, model.metadata.categories, model.metadata.image_settings)


def _encode_outputs(found: ExportedOutputs, size: tuple[int, int], *, between_pixels: bool) -> DetectionDict:
    boxes, scores, labels, masks = found
    raw = RawDetectionDict(boxes=boxes, scores=scores, labels=labels)
    if masks is None or masks.dtype != torch.uint8:
        if masks is not None:
            raw["masks"] = masks
        return encode_detection(raw, size, between_pixels=between_pixels)
    planes = np.asfortranarray(masks.permute(1, 2, 0).numpy())
    return DetectionDict(boxes=boxes, scores=scores, labels=labels, rles=coco_masks.encode(planes))


def _open_session(path: Path) -> "InferenceSession":
    check_onnx_installed("onnxruntime")
    import onnxruntime

    check_readable(path, "an ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # nothing: errors are raised
    available = onnxruntime.get_available_providers()
    with _errors_of_onnxruntime(path):
        return onnxruntime.InferenceSession(
            path, options, providers=[provider for provider in PROVIDERS if provider in available]
        )


@contextmanager
def _errors_of_onnxruntime(path: Path) -> Iterator[None]:
    """Turn what onnxruntime raises, whose classes have no common one, into a ``CheckpointError``."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        yield
    except kinds as error:
        reason = " ".join(str(error).split()).rpartition(" : ")[2]
        raise CheckpointError(f"{path}: onnxruntime cannot run it: {reason}") from error


def _read_metadata(session: "InferenceSession", path: Path) -> ExportMetadata:
    try:
        metadata = ExportMetadata.from_texts(session.get_modelmeta().custom_metadata_map)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: expected the metadata that copypaste export of version {__version__} writes, found others "
            f"({type(error).__name__}: {error}); export the model again"
        ) from error
    outputs = [output.name for output in session.get_outputs()]
    if metadata is None or outputs != list(metadata.outputs):
        inputs = map(_signature, session.get_inputs())
        raise CheckpointError(
            f"{path}: expected a file that copypaste export wrote, found one of something else, with the input "
            f"{', '.join(inputs)} and the outputs {', '.join(outputs)}"
        )
    return metadata


def _signature(end: Any) -> str:
    """Name, type and shape of an input or output."""
    shape = f" ({', '.join(map(str, end.shape))})" if end.shape else ""
    return f"{end.name} {end.type}{shape}"
