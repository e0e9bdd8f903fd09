"""DECISIONS: what to do next. Pure; time and chance are arguments, a decision is a value."""
