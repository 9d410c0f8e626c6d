"""Live streams of the server: audio in and pieces out over WebSockets, gone on with after any interruption."""
