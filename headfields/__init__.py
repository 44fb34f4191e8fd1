"""headfields."""
