"""Networks that say which sounds are in a recording, and when."""
