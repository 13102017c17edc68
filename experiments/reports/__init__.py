"""Tables, figures and pages of a profile, from its stored runs."""
