"""The run file: every knob with its unit, its default and the trade-off it makes. A section, a file.

A component takes its own section of this, never the whole. Reading YAML, overrides and the
sentences for what is wrong are in :mod:`packtrain.runfile`; nothing here imports anything heavy.
"""

from packtrain.config.adapter import AdapterConfig
from packtrain.config.base import DNS_LABEL, DURATION, NAME, NOT_BLANK, SECONDS, Section, seconds
from packtrain.config.data import DataConfig, DataSource, source_names
from packtrain.config.evaluate import EvaluateConfig, FailIf, Prompt
from packtrain.config.model import ModelConfig
from packtrain.config.places import ClusterConfig, OutputConfig
from packtrain.config.report import ReportConfig, Tracker
from packtrain.config.run import IDENTITY, RunConfig, config_hash, differences, identity
from packtrain.config.train import CheckpointConfig, TrainConfig

__all__ = [
    "DNS_LABEL",
    "DURATION",
    "IDENTITY",
    "NAME",
    "NOT_BLANK",
    "SECONDS",
    "AdapterConfig",
    "CheckpointConfig",
    "ClusterConfig",
    "DataConfig",
    "DataSource",
    "EvaluateConfig",
    "FailIf",
    "ModelConfig",
    "OutputConfig",
    "Prompt",
    "ReportConfig",
    "RunConfig",
    "Section",
    "Tracker",
    "TrainConfig",
    "config_hash",
    "differences",
    "identity",
    "seconds",
    "source_names",
]
