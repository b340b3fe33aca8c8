"""Circuits: strengths of heads, interventions, alignment; the same functions for any model whose attention is known."""
