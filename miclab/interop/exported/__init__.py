"""Files that `miclab export` copies into a folder for others. None of them needs miclab there."""
