"""What changes a running proxy's policy, and what asks a policy without serving by it."""
