"""An open-loop load generator: calls start when they are due, whether or not earlier ones have come back."""
