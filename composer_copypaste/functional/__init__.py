"""The augmentation, in torch, NumPy and Triton: no Composer, no files. Start with ``batch.py``, all steps in a row.

1. What the batch holds: ``inventory.py`` (objects, boxes, weights), ``rectangles.py`` (boxes without masks); beyond the
   batch ``bank.py``, ``pool.py``, ``crop.py`` and ``further.py``, which numbers them.
2. The draw, the only place where numbers are random: ``plan.py``, from ``scene.py`` by way of ``selection.py``,
   ``jitter.py``, ``placement.py``, all through ``draw.py``.
3. Where it lands, on the host: ``compose.py``, in ``windows.py``.
4. Carried out: ``composite.py`` decides by whom. Window after window: ``paste.py``, ``warp.py``, ``colours.py`` and
   ``visible.py``, on the arrays of ``planes.py``. All at once on a GPU: ``cuda.py``, by the Triton ``kernels.py``.
5. What stays, and every field of it: ``targets.py``.

Beside it ``large_scale_jitter.py``, whose draw is in ``framing.py``, and ``precision.py``, for both.
"""
