"""Scores of text: strings, token lists or arrays in, numbers with their signature out; imports nothing else of ours."""
