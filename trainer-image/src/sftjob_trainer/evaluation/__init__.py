"""Generated answers and the metrics on them."""
