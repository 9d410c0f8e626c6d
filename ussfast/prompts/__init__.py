"""What is asked for: the prompts of a model, and those made of example clips."""
