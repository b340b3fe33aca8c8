"""Runs on disk, and how they are found."""
