"""Running stacks: operator and API server, with another release, a proxy or a witness beside them."""
