"""What a decoder is trained on: classes, items, sequences and splits."""
