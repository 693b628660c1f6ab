"""The model: its shape and limits, loading, adapters, quantization."""
