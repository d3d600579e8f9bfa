"""Layers used by two or more models, and the samplers of tokens and latents."""
