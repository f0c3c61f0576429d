"""The augmentation, in torch and NumPy: no framework, no files.

Start with ``copypaste.py``: a batch is checked and a plan drawn, which ``carry_out.py`` carries out.

1. What the batch holds: ``arguments.py`` checks it; ``batch_objects.py`` (its objects, their boxes and weights),
   ``object_keys.py`` (which keys are theirs), ``semantic_maps.py`` (class ids as objects), ``panoptic.py`` (pairs of
   maps as objects), ``category_names.py``;
   beyond the batch ``bank.py`` and ``sources.py`` (pools).
2. The draw of a ``plan.py``: ``sampling.py``, and ``placement.py``, where objects are put: by ``overlap.py`` with the
   images' own, and by what an image shows where, ``scene.py``. Numbers are random nowhere else; they come from
   ``generators.py``.
3. Where pasted objects lie, on the host: ``layout.py``, in ``windows.py``, by loops of ``engines/numba_objects.py``;
   before it objects may get a transform of their own, ``transformed_objects.py``.
4. Pixels: ``engines/engine.py`` says which engine does it, and in which phases. ``engines/torch_engine.py`` takes steps
   in torch for each object, by ``resample.py``, ``blend.py`` (all colors that change), ``color_transfer.py``,
   ``poisson.py`` and ``tensors.py``. ``engines/kernel_engine.py`` runs kernels, which read the tables of
   ``engines/kernels.py``, filled by ``engines/numba_tables.py``: on a CPU those of ``engines/numba_engine.py``
   (``engines/numba_masks.py`` and ``engines/numba_paint.py``, with
   ``engines/numba_semantic_maps.py`` for maps of class ids; ``engines/numba_memory.py`` is what they share, and
   ``engines/compilation.py`` compiles them), on a GPU those of ``engines/triton_engine.py``
   (``engines/triton_kernels.py``).
5. Which objects stay visible, and their fields: ``visibility.py``, ``keypoints.py``, ``geometry.py``. What was
   done, given back: ``info.py``.

``large_scale_jitter.py`` is an augmentation of its own.
"""
