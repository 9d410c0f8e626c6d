"""Live streams: sessions, many of them at once, and what they are made of."""
