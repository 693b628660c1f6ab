"""Rows of data files: reading, formats, preprocessing, validation, filters."""
