"""Circuits: strengths of heads, interventions, alignment. The same functions serve any model whose attention is known."""
