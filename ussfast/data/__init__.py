"""Audio to train and measure with: manifests, readers of public data sets, packing, and all of it in memory."""
