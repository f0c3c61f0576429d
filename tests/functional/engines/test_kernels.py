"""The engines with kernels against the torch engine; Triton's run in its interpreter where there is no GPU."""

import os
import subprocess
import sys
from dataclasses import replace
from subprocess import CalledProcessError
from unittest import mock

import numba
import numpy as np
import pytest
import torch
from copypaste_cases import (
    COLORS_STAY,
    EVERYTHING,
    FITTING,
    IDENTITY,
    Case,
    block,
    cases,
    make_images,
    many,
    noise_batch,
    plan_of,
    target,
    tritons_kernels,
    window_after_window,
    with_plane_masks,
)
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from composer_copypaste import CopyPasteSettings, copypaste_batch
from composer_copypaste.compact_masks import CompactMasks, as_compact
from composer_copypaste.functional import copypaste as batch
from composer_copypaste.functional.batch_objects import batch_objects, only_copied_classes
from composer_copypaste.functional.engines import engine, numba_engine, numba_memory, numba_objects
from composer_copypaste.functional.engines.kernels import MASK_ROW, MEASURE_ROW
from composer_copypaste.functional.layout import SourceObjects, layout_of
from composer_copypaste.functional.sources import ExtraSources

pytest.importorskip("triton")
from triton.runtime.errors import PTXASError

from composer_copypaste.functional.engines import triton_engine

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning:triton")  # its interpreter

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLAIN = {"blend_sigma": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0} | COLORS_STAY
"""Settings with which kernels paint too."""
AS_PASTED = CopyPasteSettings(min_visibility=0.0, min_area=1)


def on_device(values):
    if isinstance(values, torch.Tensor | CompactMasks):
        return values.to(DEVICE)
    if isinstance(values, dict):
        return {key: on_device(value) for key, value in values.items()}
    return [on_device(value) for value in values]


def pasted_by_triton(case):
    case.images, case.targets = on_device(case.images), on_device(case.targets)
    with tritons_kernels():
        return case.paste()


def pasted_by_numba(case):
    with mock.patch.object(engine, "TorchEngine", side_effect=AssertionError):
        return case.paste()


def pasted_past_the_caches(case):
    with mock.patch.object(numba_engine, "LARGEST_CACHED", 0):
        return pasted_by_numba(case)


def assert_it_gives_what_torch_gives(case, paste):
    case.images = [i.detach() for i in case.images] if isinstance(case.images, list) else case.images.detach()
    with window_after_window():
        expected, expected_cut_outs = case.paste(), case.with_compact_masks().paste()
    cut_outs = paste(case.with_compact_masks())
    kernels = paste(case)
    torch.testing.assert_close(list(kernels.targets), list(expected.targets), rtol=0, atol=0, check_device=False)
    assert_same_windows(cut_outs.targets, expected_cut_outs.targets)
    same = [with_plane_masks(found.targets) for found in (cut_outs, expected_cut_outs, expected)]
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=0, check_device=False)
    torch.testing.assert_close(same[1], same[2], rtol=0, atol=0, check_device=False)
    for there, here in zip([*kernels.images, *cut_outs.images], [*expected.images] * 2, strict=True):
        assert (there.dtype, there.shape) == (here.dtype, here.shape)
        # rounded to the other neighbour at worst; of 16 bits, values up to 1 have steps of 2**-11 and 2**-8
        atol = {torch.uint8: 1.0, torch.float16: 2**-11, torch.bfloat16: 2**-8, torch.float32: 1e-5}[here.dtype]
        torch.testing.assert_close(there.cpu().float(), here.float(), rtol=0, atol=atol)
    assert (kernels.added, kernels.dropped) == (expected.added, expected.dropped)


def assert_same_windows(targets, others):
    for own, other in zip(targets, others, strict=True):
        if "masks" in own:
            np.testing.assert_array_equal(own["masks"].windows, other["masks"].windows)


ACROSS_TILES = {"sides": st.integers(60, 150), "counts": st.integers(1, 4), "p": 1.0, "p_instance": 1.0}


@many(25)
@given(cases(counts=st.integers(0, 5), bank=True, **PLAIN))
def test_tritons_kernels_give_what_torch_gives(case):
    assert_it_gives_what_torch_gives(case, pasted_by_triton)


@many(5)
@given(cases(**ACROSS_TILES, labels=None, **PLAIN))
def test_tritons_kernels_give_the_same_across_tiles(case):
    assert_it_gives_what_torch_gives(case, pasted_by_triton)


@pytest.mark.parametrize("settings", [*FITTING, EVERYTHING | FITTING[0] | FITTING[2]])
def test_colors_that_fit_are_the_same_on_all_engines(settings):
    case = Case(*noise_batch(torch.uint8), {"p": 1.0, "placement": "anywhere"} | settings, seed=1)
    for paste in (pasted_by_numba, pasted_by_triton):
        assert_it_gives_what_torch_gives(replace(case), paste)


@many(15)
@given(cases(counts=st.integers(0, 5)))
def test_tritons_kernels_give_the_same_targets_where_torch_paints(case):
    assert_it_gives_what_torch_gives(case, pasted_by_triton)


@many(100)
@given(cases(counts=st.integers(0, 5), bank=True, dtypes=numba_engine.NumbaKernels.dtypes, **PLAIN))
def test_numbas_kernels_give_what_torch_gives(case):
    assert_it_gives_what_torch_gives(case, pasted_by_numba)


@many(40)
@given(cases(sides=st.integers(1, 150), counts=st.integers(0, 3), dtypes=numba_engine.NumbaKernels.dtypes, **PLAIN))
def test_masks_written_past_the_caches_are_the_same(case):
    assert_it_gives_what_torch_gives(case, pasted_past_the_caches)


@many(40)
@given(cases(counts=st.integers(0, 5)))
def test_numbas_kernels_give_the_same_targets_where_torch_paints(case):
    assert_it_gives_what_torch_gives(case, pasted_by_numba)


@pytest.mark.parametrize("kernels", [numba_engine.NumbaKernels(), triton_engine.TritonKernels(torch.device(DEVICE))])
@pytest.mark.parametrize("copies", [255, 256, 257])
def test_an_image_may_receive_more_objects_than_a_byte_counts(kernels, copies):
    images, targets = on_device(make_images()), on_device([target(), target((2, 3, 6, 5))])
    plan = plan_of(*[(0, 1, 0, IDENTITY)] * copies)
    with mock.patch.object(engine, "kernels_for", return_value=kernels):
        found = batch.paste(images, targets, AS_PASTED, plan, ExtraSources())
    assert found.kept.row.tolist() == [copies - 1]
    assert torch.equal(found.targets[0]["masks"].cpu(), block(2, 3, 6, 5)[None])
    assert torch.equal(found.images[0][:, 3:5, 2:6], images[1][:, 3:5, 2:6])


@pytest.mark.parametrize("height", [255, 256, 600])
def test_objects_of_more_rows_than_a_byte_counts_are_measured(height):
    images = torch.zeros(2, 3, height, 2, dtype=torch.uint8)
    masks = torch.ones(2, 1, height, 2, dtype=torch.uint8)
    boxes = torch.tensor([[0.0, 0, 2, height]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1]), "masks": m, "area": torch.zeros(1)} for m in masks]
    half = ((1.0, 0, -1.0), (0, 1.0, 0))
    _, (after, _) = copypaste_batch(images, targets, plan=plan_of((0, 1, 0, half)), settings=AS_PASTED)
    assert after["area"].tolist() == [height, height]
    assert after["boxes"].tolist() == [[0, 0, 1, height], [1, 0, 2, height]]


def carried_out(plan, images, targets, **settings):
    with tritons_kernels():
        result = batch.paste(on_device(images), on_device(targets), CopyPasteSettings(**settings), plan, ExtraSources())
    return [image.cpu() for image in result.images], result.targets


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16])
def test_rows_of_every_width_are_measured_pixel_by_pixel(dtype):
    generator, height, width = np.random.default_rng(3), 5, 60
    owners = generator.integers(0, 3, (height, width)).astype(numba_engine._example(dtype).dtype)
    mask = generator.integers(0, 2, (height, width)).astype(np.uint8)
    owners[0] = owners[:, 7] = 3  # the first row and a column show neither the objects nor what they lie on
    places = [(x1, x2) for x1 in (0, 7) for x2 in range(x1 + 1, width + 1)]
    table = np.zeros(2 * len(places), MEASURE_ROW)
    for row, (x1, x2) in zip(table, [*places, *places], strict=True):
        row["window"], row["owners"], row["owners_width"] = (0, x1, height, x2), owners.ctypes.data, width
    pasted, own = table[: len(places)], table[len(places) :]
    pasted["number"], own["mask"], own["mask_width"] = 2, mask.ctypes.data, width
    measured = numba_engine.NumbaKernels().measure(table, table[:0], dtype).numpy()
    visible = [(owners == 2, x) for x in places] + [((owners == 0) & (mask != 0), x) for x in places]
    for (area, former, *box), (pixels, (x1, x2)), row in zip(measured.tolist(), visible, table, strict=True):
        y, x = np.nonzero(pixels[:, x1:x2])
        assert area == len(y)
        assert former == (mask[:, x1:x2].sum() if row["mask"] else 0)
        assert not area or box == [x.min() + x1, y.min(), x.max() + x1 + 1, y.max() + 1]


def test_colors_that_move_by_whole_pixels_equal_the_sources_to_the_bit():
    images = make_images().float() / 7
    after = carried_out(plan_of((0, 1, 0, IDENTITY)), images, [target(), target((2, 3, 6, 5))])[0]
    here = block(2, 3, 6, 5).bool()
    assert torch.equal(after[0][:, here], images[1][:, here])
    assert torch.equal(after[0][:, ~here], images[0][:, ~here])


def test_class_ids_are_pasted_too():
    ids = torch.zeros(2, 8, 8, dtype=torch.int64)
    ids[1, 3:5, 2:6] = 7
    _, after = carried_out(plan_of((0, 1, 1, IDENTITY)), make_images(), ids)
    assert torch.equal(after[0].cpu(), 7 * block(2, 3, 6, 5).long())


class NothingWaits(TorchDispatchMode):
    """Fails where a step in torch would read a value from a device; it does the same on a CPU."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert operation not in (torch.ops.aten.masked_fill_.Tensor, torch.ops.aten._local_scalar_dense.default)
        return operation(*args, **(kwargs or {}))


def test_pasting_class_ids_reads_no_value_from_the_device():
    ids = torch.zeros(2, 8, 8, dtype=torch.int64, device=DEVICE)
    ids[1, 3:5, 2:6] = 7
    with tritons_kernels():
        held = batch_objects(on_device(make_images()), ids, CopyPasteSettings())
        plan, held = only_copied_classes(plan_of((0, 1, 1, IDENTITY)), held)
        layout = layout_of(plan, [SourceObjects(as_compact(image.instances.masks), image.info.boxes) for image in held])
        stacked = engine.engine_for(torch.device(DEVICE)).stack(layout, CopyPasteSettings())
    labels = torch.cat([image.instances.labels for image in held])
    with NothingWaits():
        after = stacked.class_ids(ids, labels)
    assert torch.equal(after[0].cpu(), 7 * block(2, 3, 6, 5).long())


def launches_of(n, **columns):
    """Grid, table and alignment of each launch that writes ``n`` masks with these columns."""
    masks, kernel = np.zeros(n, MASK_ROW), mock.MagicMock()
    for name, value in columns.items():
        masks[name] = value
    with mock.patch.object(triton_engine.kernels, "write_masks", kernel):
        triton_engine.TritonKernels(torch.device("cpu")).write_masks(masks, torch.uint8)
    grids, launches = kernel.__getitem__.call_args_list, kernel.__getitem__.return_value.call_args_list
    return [
        (grid.args[0], launch.args[0], launch.kwargs["ALIGNMENT"]) for grid, launch in zip(grids, launches, strict=True)
    ]


@pytest.mark.parametrize(
    ("written", "former", "is_copy", "height", "width", "alignment"),
    [
        (512, 1024, 1, 4, 4, 16),
        (512, 0, 0, 4, 8, 16),
        (512, 1025, 0, 4, 8, 16),
        (512, 1025, 1, 4, 8, 1),
        (520, 1024, 1, 4, 4, 1),
        (512, 1024, 1, 5, 5, 1),
    ],
)
def test_16_bytes_are_written_at_a_time_where_masks_begin_and_end_so(
    written, former, is_copy, height, width, alignment
):
    kept_in = [3, 7, 3 + height, 7 + width]
    (_, _, found), *_ = launches_of(1, written=written, former=former, is_copy=is_copy, kept_in=kept_in)
    assert found == alignment


def test_more_masks_than_a_grid_has_rows_are_written_in_parts():
    launches = launches_of(70_000, written=512, kept_in=[0, 0, 1, 1])
    assert [grid for grid, _, _ in launches] == [(1, 65535), (1, 4465)]
    assert [len(table) for _, table, _ in launches] == [65535, 4465]


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler."), CalledProcessError(1, ["gcc"]), PTXASError("no sm_61")]
)
def test_where_triton_runs_nothing_a_warning_says_so_once_and_torch_does_the_work(error, monkeypatch):
    device = torch.device("cuda:0")
    monkeypatch.setattr(triton_engine, "torch", mock.Mock(torch, **{"ones.return_value": torch.ones(1)}))
    monkeypatch.setattr(triton_engine.TritonKernels, "write_masks", mock.Mock(side_effect=error))
    triton_engine.can_run.cache_clear()
    with pytest.warns(UserWarning, match=r"because Triton runs no kernel there: .*It needs a C compiler"):
        assert engine.kernels_for(device) is None
    assert engine.kernels_for(device) is None  # a second warning would be an error
    triton_engine.can_run.cache_clear()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_a_device_that_is_out_of_memory_is_an_error_and_its_kernels_are_taken_once_it_has_some(error, monkeypatch):
    device = torch.device("cuda:0")
    monkeypatch.setattr(triton_engine, "torch", mock.Mock(torch, **{"ones.return_value": torch.ones(1)}))
    monkeypatch.setattr(triton_engine.TritonKernels, "write_masks", mock.Mock(side_effect=[error, None]))
    triton_engine.can_run.cache_clear()
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.kernels_for(device)
    assert engine.kernels_for(device) is not None
    triton_engine.can_run.cache_clear()


def test_where_triton_runs_a_kernel_its_kernels_are_taken():
    assert triton_engine.can_run(torch.device(DEVICE))


COMPILING = """
import sys

import triton.language as tl
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from composer_copypaste.functional.engines import triton_kernels as kernels

for kernel, arguments, constants in (
    *((kernels.stack, ("images", "pasted"), {"OWNERS": type_}) for type_ in (tl.uint8, tl.int16)),
    (kernels.measure, ("objects", "which", "first_programs", "results"), {"OWNERS": tl.uint8}),
    (kernels.count_uncovered, ("pasted", "which", "first_programs", "results"), {}),
    (kernels.write_masks, ("masks",), {"OWNERS": tl.uint8, "ALIGNMENT": 16}),
    (kernels.paint_ids, ("images", "labels"), {"OWNERS": tl.uint8, "TYPE": tl.int64}),
    *(
        (kernels.paint, ("images", "pasted", "tents"), {"OWNERS": tl.uint8, "TYPE": type_, "CHANNELS": 3})
        for type_ in (tl.uint8, tl.float16, tl.bfloat16, tl.float32)
    ),
):
    types = dict.fromkeys(arguments, "*i64")
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constexprs=constants)
    code = compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32)).asm
    assert code["cubin"]
    assert "div.full" not in code["ptx"], "that division is an approximation"
print("compiled")
"""


@pytest.mark.parametrize(
    "capability", [pytest.param("75", marks=pytest.mark.slow), "80", pytest.param("90", marks=pytest.mark.slow)]
)
def test_kernels_compile_for_gpus_also_where_there_is_none(tmp_path, capability):
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILING, capability]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout == "compiled\n", done.stderr


def test_a_machine_on_which_nothing_can_be_kept_compiles_anew():
    with mock.patch.object(numba.core.caching.FunctionCache._impl_class, "_locator_classes", []):
        doubled = numba_memory.compiled(lambda number: 2 * number)
    assert doubled(21) == 42


def test_a_function_over_objects_is_compiled_for_one_kind_of_arguments():
    same = target((1, 1, 4, 4))
    copypaste_batch(make_images(), [same, same], plan=plan_of((0, 1, 0, IDENTITY)))
    signatures = numba_objects.windows_of_masks.signatures
    assert len(signatures) <= 1  # none where its caller was compiled by an earlier process
