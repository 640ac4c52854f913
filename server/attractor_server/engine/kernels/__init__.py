"""Kernels that keep a page's weights near the core through all steps of a reading: C for a CPU, Triton for CUDA."""
