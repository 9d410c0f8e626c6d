"""Seeded fuzzing of everything that takes input from outside; see docs/security.md. `python -m fuzz --help`"""
