"""The state of the cluster, and the tokens of its ServiceAccounts."""
