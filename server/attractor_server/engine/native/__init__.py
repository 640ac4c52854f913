"""Kernels: C for a CPU, which keeps a page's weights near the core through all steps, and Triton for a GPU."""
