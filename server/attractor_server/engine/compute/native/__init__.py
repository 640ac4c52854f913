"""Native kernels in C for a CPU, which keep a page's weights near the core through all steps."""
