"""The Triton kernels against the way that works window by window: in Triton's interpreter where there is no GPU."""

import os
import subprocess
import sys
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from copypaste_cases import IDENTITY, block, cases, pictures, plan_of, target
from hypothesis import given
from hypothesis import strategies as st
from test_batch import many
from test_meta_device import everything_stays_a_tensor

from composer_copypaste import CopyPasteSettings
from composer_copypaste.functional import batch, composite
from composer_copypaste.functional.further import Further

pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning:triton")  # its interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN = {"erosion": 0, "blend_sigma": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}


@contextmanager
def kernels_on_any_device():
    """As on a GPU, where masks are tensors and kernels are chosen by themselves."""
    with everything_stays_a_tensor(), mock.patch.object(composite, "kernels_run_on", return_value=True):
        yield


def on_device(values):
    if isinstance(values, torch.Tensor):
        return values.to(DEVICE)
    if isinstance(values, dict):
        return {key: on_device(value) for key, value in values.items()}
    return [on_device(value) for value in values]


def assert_kernels_give_the_same(case):
    case.images = [i.detach() for i in case.images] if isinstance(case.images, list) else case.images.detach()
    windows = case.paste()
    case.images, case.targets = on_device(case.images), on_device(case.targets)
    with kernels_on_any_device():
        kernels = case.paste()
    torch.testing.assert_close(list(kernels.targets), list(windows.targets), rtol=0, atol=0, check_device=False)
    for there, here in zip(kernels.images, windows.images, strict=True):
        assert (there.device.type, there.dtype) == (DEVICE, here.dtype)
        there = there.cpu()
        # rounded to the other neighbour at worst; of 16 bits, values up to 1 have steps of 2**-11 and 2**-8
        atol = {torch.uint8: 1.0, torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 1e-5}[here.dtype]
        torch.testing.assert_close(there.float(), here.float(), rtol=0, atol=atol)
    assert (kernels.added, kernels.dropped) == (windows.added, windows.dropped)


@many(40)
@given(cases(counts=st.integers(0, 5), bank=True, **PLAIN))
def test_kernels_give_what_windows_give(case):
    assert_kernels_give_the_same(case)


@many(5)
@given(cases(sides=st.integers(60, 150), counts=st.integers(1, 4), p=1.0, p_instance=1.0, categories=None, **PLAIN))
def test_kernels_give_the_same_across_tiles(case):
    assert_kernels_give_the_same(case)


def carried_out(plan, images, targets, **settings):
    with kernels_on_any_device():
        result = batch.paste(on_device(images), on_device(targets), CopyPasteSettings(**settings), plan, Further())
    return [image.cpu() for image in result.images], result.targets


def test_moved_colours_are_the_sources_to_the_bit():
    images = pictures().float() / 7
    after = carried_out(plan_of((0, 1, 0, IDENTITY)), images, [target(), target((2, 3, 6, 5))])[0]
    here = block(2, 3, 6, 5).bool()
    assert torch.equal(after[0][:, here], images[1][:, here])
    assert torch.equal(after[0][:, ~here], images[0][:, ~here])


def test_class_ids_are_pasted_too():
    ids = torch.zeros(2, 8, 8, dtype=torch.int64)
    ids[1, 3:5, 2:6] = 7
    _, after = carried_out(plan_of((0, 1, 1, IDENTITY)), pictures(), ids)
    assert torch.equal(after[0].cpu(), 7 * block(2, 3, 6, 5).long())


@pytest.mark.parametrize("setting", [{"erosion": 1}, {"blend_sigma": 1.0}])
def test_what_needs_a_pixels_neighbours_is_left_to_the_other_way(setting):
    targets = [target(), target((2, 3, 6, 6))]
    with mock.patch("composer_copypaste.functional.cuda.FusedComposite", side_effect=AssertionError):
        carried_out(plan_of((0, 1, 0, IDENTITY)), pictures(), targets, **setting)


COMPILING = """
import triton.language as tl
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from composer_copypaste.functional import kernels

images, table = {"IMAGE_WIDTH": 9, "LANDING_WIDTH": 20}, {"WIDTH": 10}
for kernel, arguments, constants in (
    (kernels.stack, ("images", "landings"), images),
    (kernels.measure, ("tasks", "items", "results"), table),
    (kernels.write_masks, ("planes",), {**table, "ALIGNMENT": 16}),
    *(
        (kernels.paint, ("images", "landings"), {**images, "TYPE": type_, "CHANNELS": 3})
        for type_ in (tl.uint8, tl.float16, tl.bfloat16, tl.float32)
    ),
):
    types = {name: "*i32" if name == "results" else "*i64" for name in arguments}
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    for capability in (80, 90):
        assert compile(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
print("compiled")
"""


def test_kernels_compile_for_gpus_also_where_there_is_none(tmp_path):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPILING], env=environment, capture_output=True, text=True)
    assert done.stdout == "compiled\n", done.stderr
