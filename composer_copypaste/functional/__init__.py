"""The augmentation, in torch, NumPy, Numba and Triton: no Composer, no files. Start with ``batch.py``.

1. What the batch holds: ``arguments.py`` (whether it is one), ``inventory.py`` (objects, boxes, weights),
   ``object_keys.py`` (which keys are of each object), ``rectangles.py`` (boxes without masks), ``class_maps.py``
   (classes for objects; ``host_classes.py`` is Numba's);
   beyond the batch ``bank.py``, ``pool.py``, ``crop.py`` and ``further.py``, which numbers them.
2. The draw of a ``plan.py``, the only place where numbers are random: ``planning.py``, from ``scene.py`` by way of
   ``selection.py`` (``category_names.py``: which labels settings name), ``jitter.py`` and ``placement.py``, all through
   ``draw.py``.
3. Where it lands, on the host: ``layout.py``, in ``windows.py`` (``host_windows.py``: which of them meet).
4. Carried out: ``composite.py`` decides by whom. All at once, by kernels that get tables: ``fused.py``; on the host
   ``host.py``, by Numba's ``host_masks.py`` and ``host_colours.py`` on ``host_memory.py``; on a GPU ``cuda.py``, by
   Triton's ``triton_kernels.py``. Object after object, wherever these cannot: ``windowed.py``, by ``paste.py``,
   ``warp.py``, ``colours.py`` and ``planes.py``.
5. What stays, and every field of it: ``targets.py``, by ``measures.py``; ``keypoints.py``.

Beside it ``large_scale_jitter.py``, whose draw is in ``framing.py``, and ``precision.py``, for both.
"""
