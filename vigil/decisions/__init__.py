"""From risk to decision: actions, reasons, and the tier that needs no model."""
