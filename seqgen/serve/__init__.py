"""Trained runs as a service that speaks OpenAI's protocol; needs the extra `serve` (Starlette and uvicorn)."""
