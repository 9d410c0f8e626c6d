"""Where live audio already flows: a filter for PCM of any form, and its adapters for other people's pipelines.

Each adapter is a module of its own, which needs the package that it is for.
"""

from ussfast.integrations.config import FilterConfig
from ussfast.integrations.live_filter import LiveFilter

__all__ = ["FilterConfig", "LiveFilter"]
