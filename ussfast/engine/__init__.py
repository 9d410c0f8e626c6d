"""Networks run on a device: batches of windows, graphs of recorded kernels, copies."""
