"""What results are compared with: golden files, published schemas and standards."""
