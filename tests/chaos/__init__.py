"""The scenarios, their checks, and faults planted in the product that they have to find."""
