"""Jobs and manifests: builders, samples, small real jobs, strategies that draw them, and the documents about them."""
