"""Pictures of the ranked catalog."""
