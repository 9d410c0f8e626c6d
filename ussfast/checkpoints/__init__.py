"""Models on disk and in the Hub: weights, what is said about them, where they are found."""
