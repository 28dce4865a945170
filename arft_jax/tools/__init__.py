"""What the policy can call."""
