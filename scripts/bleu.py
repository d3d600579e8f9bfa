#!/usr/bin/env python3
"""BLEU of the lines of HYP against all lines of REF: the command `seqgen bleu` as a script.

Run: python scripts/bleu.py HYP REF... [--order 2-5] [--tokenizer NAME] [--smoothing NAME] [--json]
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the checkout itself, installed or not

from seqgen.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["bleu", *sys.argv[1:]]))
