"""Files as jobs: accepted, kept, worked on by a process of their own, handed out."""
