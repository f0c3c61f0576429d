#!/usr/bin/env bash
# onnxruntime 1.32.0 fails on a group normalization of no objects (a batch of 0), where other layers give an empty result.
#
# It computes GroupNormalization, as ONNX defines it, with a reshape whose -1 cannot be inferred from an empty tensor.
# PyTorch's GroupNorm gives an empty result, and its exporters write the same reshape for older versions of ONNX's
# operators. So a detector with group normalization in a head that runs on each found object works when it is tested on
# a picture with objects, and fails on the first one in which it finds nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON' | tee "$folder/seen"
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

onnxruntime.set_default_logger_severity(4)
SHAPE = ["objects", 4, 5, 5]
one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
LAYERS = {
    "Conv": ({"weight": np.ones((4, 4, 1, 1), np.float32)}, {}),
    "BatchNormalization": ({"scale": one, "bias": zero, "mean": zero, "variance": one}, {}),
    "InstanceNormalization": ({"scale": one, "bias": zero}, {}),
    "GroupNormalization": ({"scale": one, "bias": zero}, {"num_groups": 2}),
}


def session_of(layer, weights, options):
    node = helper.make_node(layer, ["x", *weights], ["y"], **options)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE) for name in "xy")
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "one layer", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def shape_of_result(session, objects):
    try:
        return session.run(None, {"x": np.zeros((objects, *SHAPE[1:]), np.float32)})[0].shape
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
        node = "Reshape" if "running Reshape node" in str(error) else "?"
        return f"{type(error).__name__} in {node}"


print(f"onnxruntime {onnxruntime.__version__}")
for layer, (weights, options) in LAYERS.items():
    session = session_of(layer, weights, options)
    print(f"{layer} of 2 objects: {shape_of_result(session, 2)}, of none: {shape_of_result(session, 0)}")
PYTHON
diff "$folder/seen" - <<'SEEN'
onnxruntime 1.32.0
Conv of 2 objects: (2, 4, 5, 5), of none: (0, 4, 5, 5)
BatchNormalization of 2 objects: (2, 4, 5, 5), of none: (0, 4, 5, 5)
InstanceNormalization of 2 objects: (2, 4, 5, 5), of none: (0, 4, 5, 5)
GroupNormalization of 2 objects: (2, 4, 5, 5), of none: Fail in Reshape
SEEN
