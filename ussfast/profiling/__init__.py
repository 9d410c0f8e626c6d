"""How fast models are: benches, profiles, operations counted."""
