"""From events to features: exact windows over entities, and the state they need."""
