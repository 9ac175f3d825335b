"""llmgate: the LLM gateway whose money is right."""

__version__ = "0.1.0"
