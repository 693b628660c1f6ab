"""What a Prometheus may scrape: what the operator does, and where its jobs stand."""
