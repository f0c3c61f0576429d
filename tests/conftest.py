"""For all tests: Triton runs its kernels in its interpreter where there is no GPU."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when the module with the kernels is imported
