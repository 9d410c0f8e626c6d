"""Audio prompt tuning: a prompt learns from a few clips, the model stays as it is.

Source: Liu et al., "Audio prompt tuning for universal sound separation", ICASSP 2024 (arXiv 2311.18399).
"""
