"""One running exporter, and the reload of its configuration."""
