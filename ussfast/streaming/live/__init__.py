"""What a running program needs around a session: sound cards, pipes, files at their own pace, statistics."""
