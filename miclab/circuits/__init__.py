"""Circuits: the heads that form one, and the effects of knocking them out."""
