"""Run folders, checkpoints, the loop, generation, evaluation, reports."""
