"""The networks: decoder, position codes, projectors, encoders and the classifier."""
