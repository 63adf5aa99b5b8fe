"""AI.DAGEXECUTE and AI.DAGRUN, with their read-only forms."""
