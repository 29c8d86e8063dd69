"""Figures of explanations, identifications, interactions and decoders."""
