"""The HTTP side of the API server: routes, lists, watches, tables, discovery, logs, authentication."""
