"""Commands that make what the package ships, and the pictures of the documentation."""
