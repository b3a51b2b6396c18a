"""The configuration: a YAML file and the environment → one frozen `Config`, or every problem at once."""

from braze_exporter.config.document import ConfigError, Problem
from braze_exporter.config.keys import ApiKey, Secret
from braze_exporter.config.loading import Config, load, missing_keys, read

__all__ = ["ApiKey", "Config", "ConfigError", "Problem", "Secret", "load", "missing_keys", "read"]
