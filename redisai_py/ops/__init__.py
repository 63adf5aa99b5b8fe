"""Services for the operator, besides the front door."""
