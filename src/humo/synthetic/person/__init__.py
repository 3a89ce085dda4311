"""Who somebody is and what they look like."""
