"""Corpora: grammars that write them, sets known by name, files to learn from, oracles."""
