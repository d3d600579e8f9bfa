"""One model per file; see `_contract.py` for the five names each file defines."""
