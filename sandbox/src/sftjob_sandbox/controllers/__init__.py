"""The controllers of the API server's own objects: garbage, namespaces, definitions, events, claims."""
