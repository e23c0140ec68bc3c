"""Kernels of our own for the processor, in C beside torch: they know numbers and shapes, and no modules."""
