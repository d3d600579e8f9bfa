"""Text and ids: tokenizers, packed corpora, batches that are functions of the step, grammars."""
