"""A test bed on any cluster: it needs a kubeconfig, the chart and the two images."""
