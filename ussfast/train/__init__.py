"""Training: audio kept on the training device, dynamic mixing there, and a small resumable trainer."""
