"""Recordings of any length: windows, where they meet, and blocks on their way through threads."""
