"""Run files and sample data that ``packtrain init`` writes."""
