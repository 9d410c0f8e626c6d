"""Measuring separation: metrics and development mixtures."""
