"""Access to the API server: one small Protocol, its one implementation, and the watch caches."""
