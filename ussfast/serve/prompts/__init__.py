"""Prompts that callers make of clips, and those that there are."""
