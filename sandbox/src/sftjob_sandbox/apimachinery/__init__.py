"""What Kubernetes' apimachinery defines: names, metadata, errors, selectors, quantities."""
