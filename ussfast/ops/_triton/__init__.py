"""Triton kernels for CUDA: one file per op, imported only where triton and a CUDA device are present."""
