"""miclab: a laboratory for multimodal in-context learning."""

__version__ = "0.2.0"
