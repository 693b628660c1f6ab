"""Version v1alpha1 of the API: the spec and status of an SFTJob, one module per section."""
