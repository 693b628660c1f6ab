"""CustomResourceDefinitions: what is accepted, and what an accepted one says about its objects."""
