"""What runs beside the front door for the operator."""
