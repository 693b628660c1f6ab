"""The schemas of kinds, built-in and custom, behind one interface."""
