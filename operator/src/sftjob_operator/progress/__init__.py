"""The HTTPS endpoint that trainers report to: authenticated, bounded, coalescing."""
