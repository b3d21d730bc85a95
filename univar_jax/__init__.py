"""UniVaR in JAX: the values behind an LLM's answers as vectors (arXiv 2404.07900)."""

__version__ = "0.1.0"
