"""Commands that build the package's data and the documentation's pictures."""
