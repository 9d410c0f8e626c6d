"""Which sounds are in a recording, and when."""
