"""Figures of the documentation, and the runs and numbers behind them."""
