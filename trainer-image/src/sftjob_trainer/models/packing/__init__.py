"""Rows that hold several documents: attention by document, and proof that a model keeps documents apart."""
