"""Networks without a distribution in sight: numbers in, numbers out."""
