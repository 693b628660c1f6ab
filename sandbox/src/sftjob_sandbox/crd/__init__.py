"""CustomResourceDefinitions: their own rules, and the validation of custom resources by an accepted one."""
