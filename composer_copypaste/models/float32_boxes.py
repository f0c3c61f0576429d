"""Keeps anchors, proposals and boxes in float32 under autocast, whose half precision would move them by pixels."""

from collections.abc import Iterable, Mapping

from torch import Tensor, nn


def keep_boxes_in_float32(anchors: nn.Module, heads: Iterable[nn.Module]) -> None:
    """Let a detector's anchors and the outputs of its heads stay float32, whatever autocast computes in."""
    anchors.register_forward_pre_hook(_float32_inputs)
    for part in heads:
        part.register_forward_hook(_float32_outputs)


def _float32_inputs(module: nn.Module, inputs: tuple[object, list[Tensor]]) -> tuple[object, list[Tensor]]:
    images, features = inputs
    return images, [feature.float() for feature in features]


def _float32_outputs(module: nn.Module, inputs: object, outputs: object) -> object:
    """A tensor, or the tensors in tuples, lists and dicts, in float32."""
    if isinstance(outputs, tuple | list):
        return type(outputs)(_float32_outputs(module, inputs, output) for output in outputs)
    if isinstance(outputs, Mapping):
        return {name: _float32_outputs(module, inputs, output) for name, output in outputs.items()}
    return outputs.float() if isinstance(outputs, Tensor) else outputs
